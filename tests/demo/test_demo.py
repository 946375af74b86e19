"""`manage.py demo` as a whole, with real parts in a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import checks, ports
from tests.conftest import COUNTING
from tests.processes import ROOT, Running, eventually, group_members
from tests.servers import Server

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("demo"),  # they share one that runs
]

BARE = dict.fromkeys(("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "MQTT_URL", "STORAGE_URL"), "")
BARE |= dict.fromkeys(("PUBLIC_URL", "FIRMWARE_URL", "DJI_APP_LICENSE"), "")
BARE["DJANGO_SETTINGS_MODULE"] = "config.settings"
MakeDemo = Callable[..., Running]


def two_ports() -> int:
    """A free port whose neighbour is free too."""
    port = ports.free()
    return port if port < 65535 and ports.is_free(port + 1) else two_ports()


def demo(folder: Path, *arguments: str, port: int, **variables: str) -> Running:
    """The demo with little packages; ready when it has printed its table."""
    command = [sys.executable, "manage.py", "demo", "--json", "--package-size", "1"]
    command += ["--folder", str(folder), "--port", str(port), *arguments]
    log = folder.with_suffix(".log")
    return Running("demo", command, log, lambda run: "Console: " in run.output, BARE | variables)


def table(run: Running) -> dict[str, dict[str, Any]]:
    """Its rows by part."""
    line = next(line for line in run.output.splitlines() if line.startswith("{"))
    return {row["part"]: row for row in json.loads(line)["parts"]}


def group_ids(run: Running) -> list[int]:
    return [run.pid, *(row["pid"] for row in table(run).values() if row["pid"])]


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Running]:
    """A first run with two docks; what it covers is counted, because nothing else runs all of it."""
    folder = tmp_path_factory.mktemp("demo") / "var"
    counting = pytestconfig.stash[COUNTING]
    run = demo(folder, "--docks", "2", port=two_ports(), **counting).start(wait=False)
    try:
        run.wait_until_ready()
        yield run
    finally:
        run.end()


@pytest.fixture
def make_demo(tmp_path: Path) -> Iterator[MakeDemo]:
    """Makes demos, without starting them, and ends them with the test."""
    made: list[Running] = []

    def make(*arguments: str, port: int | None = None, **variables: str) -> Running:
        made.append(demo(tmp_path / "var", *arguments, port=port or two_ports(), **variables))
        return made[-1]

    yield make
    for run in made:
        run.end()


def test_every_part_answers(running: Running) -> None:
    rows = table(running)
    parts = {"database", "valkey", "broker", "web", "firmware"}
    parts |= {"worker", "beat", "bridge", "simulator"}
    assert set(rows) == parts
    assert {row["state"] for row in rows.values()} == {"answers"}


def test_the_embedded_servers_listen_on_this_machine_only(running: Running) -> None:
    rows = table(running)
    assert checks.redis_answers(rows["valkey"]["address"])
    assert checks.mqtt_answers(rows["broker"]["address"])
    for part in ("valkey", "broker"):
        assert "//127.0.0.1:" in rows[part]["address"]
        assert listening_addresses(rows[part]["pid"]) == {"0100007F"}


def listening_addresses(pid: int) -> set[str]:
    """The local IPv4 addresses (hexadecimal, as the kernel writes them) on which a process listens."""
    own = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    listening = "0A"
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == listening and f"socket:[{inode}]" in own:
            found.add(local.partition(":")[0])
    return found


def test_the_first_run_tells_the_password(running: Running) -> None:
    assert running.output.count("Log in as admin with the password ") == 1


def test_it_tells_how_other_commands_talk_to_it(running: Running) -> None:
    told = next(line for line in running.output.splitlines() if line.startswith("Commands: "))
    typed = ["sh", "-c", f"{told.removeprefix('Commands: ')} --json"]
    env = os.environ | BARE
    done = subprocess.run(typed, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)


def test_the_binding_code_is_not_in_the_list_of_processes(running: Running) -> None:
    pid = table(running)["simulator"]["pid"]
    assert b"--code" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_killed_part_is_named_and_started_again(running: Running) -> None:
    os.kill(table(running)["beat"]["pid"], signal.SIGKILL)
    running.wait_for_line("beat was ended by SIGKILL; starting it again now")
    running.wait_for_line("beat answers again")


def test_two_demos_do_not_share_a_folder(running: Running, make_demo: MakeDemo) -> None:
    second = make_demo("--folder", str(running.log.with_suffix("")))
    second.start(wait=False)
    second.wait_for_line("runs in")
    assert wait_for_exit(second) == 1
    assert "Traceback" not in second.output


def wait_for_exit(run: Running) -> int:
    eventually(lambda: not run.is_alive, "the end of the demo")
    return run.terminate()


def test_over_given_servers_none_is_started_and_sigterm_ends_all_the_others(
    make_demo: MakeDemo, redis_server: Server, mosquitto: Server
) -> None:
    variables = {"REDIS_URL": redis_server.url, "MQTT_URL": mosquitto.url}
    run = make_demo("--no-docks", **variables).start(wait=False)
    run.wait_until_ready()
    rows, groups = table(run), group_ids(run)
    assert not rows.keys() & {"valkey", "broker", "simulator"}
    assert rows["redis"]["pid"] is rows["mqtt"]["pid"] is None
    assert {row["state"] for row in rows.values()} == {"answers"}
    assert run.terminate() == 0
    assert not any(map(group_members, groups))


def test_a_demo_that_is_killed_leaves_nobody_and_the_second_run_prints_no_password(
    make_demo: MakeDemo,
) -> None:
    run = make_demo("--no-docks").start(wait=False)
    run.wait_until_ready()
    assert run.output.count("Log in as admin with the password ") == 1
    groups = group_ids(run)
    os.kill(run.pid, signal.SIGKILL)
    eventually(lambda: not any(map(group_members, groups)), "the end of all parts")
    run.terminate()
    run.start(wait=False)
    run.wait_for_line("changepassword admin")
    run.wait_for_line("Starting")
    assert "with the password" not in run.output


def test_a_server_that_is_given_and_does_not_answer_is_named(make_demo: MakeDemo) -> None:
    address = f"redis://:hunter2@127.0.0.1:{ports.free()}/0"
    run = make_demo("--no-docks", "--patience", "1", REDIS_URL=address).start(wait=False)
    assert wait_for_exit(run) == 1
    assert "redis does not answer at redis://***@127.0.0.1" in run.output
    assert "hunter2" not in run.output


def test_a_taken_port_gives_one_line(make_demo: MakeDemo) -> None:
    with socket.create_server((ports.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        run = make_demo(port=port).start(wait=False)
        assert wait_for_exit(run) == 1
    assert f"Port {port} is taken" in run.output
    assert "--port" in run.output
    assert len(run.output.splitlines()) == 1


def test_the_neighbour_of_the_port_is_needed_too(make_demo: MakeDemo) -> None:
    port = two_ports()
    with socket.create_server((ports.HOST, port + 1)):
        run = make_demo(port=port).start(wait=False)
        assert wait_for_exit(run) == 1
    assert f"Port {port + 1} is taken" in run.output
