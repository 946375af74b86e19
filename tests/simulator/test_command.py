"""`simulate_docks` as an operator calls it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.simulator.server import cloud

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--docks=0"], "at least 1 dock"),
        (["--docks=99999999999999999999"], "at most 1000000"),
        (["--docks=1", "--first=99999999999999999999"], "at most 1000000"),
        (["--docks=1", "--fault=busy=99999999999999999999"], "do not fit"),
        (["--docks=3", "--fault=tired=1"], "Unknown fault"),
        (["--docks=1", "--fault=busy=2"], "do not fit"),
        (["--docks=1", "--organization=o1"], "belong together"),
        (["--docks=1", "--rate=0"], "at least 1 byte"),
        (["--docks=1", "--mqtt=http://broker.test"], "must look like"),
        (["--docks=1", "--mqtt=mqtt://broker.test", "--state=/"], "/ cannot be read: Is a dir"),
        (["--docks=1", "--mqtt=mqtt://broker.test", "--state=/none/a"], "There is no folder"),
    ],
)
def test_a_wrong_call_says_why_and_ends_with_2(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message) as caught:
        call_command("simulate_docks", *arguments)
    assert caught.value.returncode == 2


@pytest.mark.parametrize(
    "argument", ["--speed=0", "--clear-after=-1", "--fault=busy", "--fault=busy=x"]
)
def test_an_argument_that_cannot_be_read_is_refused(argument: str) -> None:
    with pytest.raises(CommandError):
        call_command("simulate_docks", "--docks=1", argument)


@pytest.mark.parametrize("argument", ["--speed=abc", "--clear-after=abc"])
def test_what_is_no_number_is_called_so(argument: str) -> None:
    with pytest.raises(CommandError, match="'abc' is no number"):
        call_command("simulate_docks", "--docks=1", argument)


@pytest.mark.services
async def test_the_command_says_when_all_are_online_and_ends_when_told(broker_port: int) -> None:
    async with cloud(broker_port) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "django", "simulate_docks", "--docks=3", "--json",
            f"--mqtt=mqtt://docks:secret@127.0.0.1:{broker_port}", "--organization=o1", "--code=QWERTY",
            cwd=ROOT, env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        await server.until(lambda said: said.kind == "osd", count=12)
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), timeout=120)
    assert process.returncode == 0
    summary = json.loads(out)
    assert summary.pop("rounds") >= 3
    assert summary.pop("late_p99") >= 0
    told = {"docks": 3, "online": 3, "outcomes": {}, "commands": 0, "upgrades": 0, "reports": 0}
    assert summary == told
    assert b"3 docks online" in err
    assert b"secret" not in err
    assert b"QWERTY" not in err
