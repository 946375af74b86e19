"""The command lines of our processes: one for the demo, for tests and for benchmarks."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from demo import ports, services
from tests.processes import Processes, Running

PORT = 8100
EVERYWHERE = "0.0.0.0"  # noqa: S104  # what the Procfile listens on


class Told(Processes):
    """What would be started."""

    def start(self, name: str, command: Sequence[str], *_: Any, **__: Any) -> Running:
        self.environment[name] = shlex.join(command)
        return Running(name, command, Path(), lambda _: True)


def deployed(name: str) -> list[str]:
    """The options of a server as the Procfile has them, but for the port that it is given."""
    lines = (settings.BASE_DIR / "Procfile").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}: "))
    words = line.split()[2:]
    return [ports.HOST if word == EVERYWHERE else word for word in words if "$" not in word]


def in_demo(name: str) -> list[str]:
    part = services.web(PORT) if name == "web" else services.firmware(PORT)
    return list(part.command)


def in_tests(name: str) -> list[str]:
    told = Told({}, Path(), PORT, PORT)
    told.web() if name == "web" else told.firmware()
    return shlex.split(told.environment[name])


@pytest.mark.parametrize("name", ["web", "firmware"])
@pytest.mark.parametrize("started", [in_demo, in_tests])
def test_servers_are_started_with_the_options_of_a_deployment(started: Any, name: str) -> None:
    command = started(name)
    assert [word for word in deployed(name) if word not in command] == []
    assert str(PORT) in command


def test_the_demo_and_the_tests_start_the_same() -> None:
    assert [in_demo(name) for name in ("web", "firmware")] == [
        in_tests(name) for name in ("web", "firmware")
    ]
