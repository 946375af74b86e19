"""Parts are started, asked, named when they end, started again, and ended without remains."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import checks
from demo import supervisor as supervision
from demo.supervisor import LONGEST_PAUSE, Child, Part, Supervisor
from tests.processes import ROOT, START_TIME, eventually, group_members

READY = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY
PARENT = "import subprocess; subprocess.Popen(['sleep', '600']); " + READY


def part(script: str, name: str = "part", *, is_server: bool = False) -> Part:
    """Answers once it has written ``ready``."""
    command = [sys.executable, "-c", script]
    return Part(
        name,
        "-",
        lambda log, start: checks.log_says(log, start, "ready"),
        command,
        is_server=is_server,
    )


@contextmanager
def supervised(folder: Path, *parts: Part) -> Iterator[tuple[Supervisor, list[str]]]:
    """A supervisor that stops as soon as it says that something answers again; and what it said."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.endswith("answers again"):
            supervisor.stop()

    supervisor = Supervisor(parts, folder, say)
    try:
        yield supervisor, said
    finally:
        supervisor.end()


def test_a_killed_part_is_named_and_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, part(READY, "worker")) as (supervisor, said):
        assert supervisor.start(START_TIME)
        first = supervisor.children[0].pid
        assert first
        os.kill(first, signal.SIGKILL)
        supervisor.run()
        assert supervisor.children[0].pid != first
    assert said[0].startswith("worker was ended by SIGKILL; starting it again now")
    assert said[1] == "worker answers again"


def test_an_exit_code_is_told(tmp_path: Path) -> None:
    script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); " + READY
    with supervised(tmp_path, part(script)) as (supervisor, said):
        assert supervisor.start(START_TIME)
        os.kill(supervisor.children[0].pid or 0, signal.SIGTERM)
        supervisor.run()
    assert said[0].startswith("part ended with exit code 7; starting it again now")


def test_a_part_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with supervised(tmp_path, part("raise SystemExit('no key')")) as (supervisor, said):
        assert not supervisor.start(START_TIME)
        assert supervisor.silent()[0].last_words() == "no key"
    assert "exit code 1" in said[0]


def test_servers_answer_before_the_others_start(tmp_path: Path) -> None:
    broken = part("raise SystemExit(3)", "server", is_server=True)
    with supervised(tmp_path, part(READY, "web"), broken) as (supervisor, _):
        assert not supervisor.start(START_TIME)
        assert supervisor.children[0].pid is None


def test_a_part_elsewhere_is_asked_and_not_started(tmp_path: Path) -> None:
    with supervised(tmp_path, Part("redis", "elsewhere", lambda *_: True)) as (supervisor, _):
        assert supervisor.start(START_TIME)
        assert supervisor.children[0].pid is None


def test_pauses_grow_while_a_part_keeps_ending(tmp_path: Path) -> None:
    child = Child(part(READY), tmp_path)
    child._started = time.monotonic()
    pauses = [child.plan_restart() for _ in range(8)]
    assert pauses == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_part_that_has_lived_long_starts_again_at_once(tmp_path: Path) -> None:
    child = Child(part(READY), tmp_path)
    child.ends, child._started = 7, time.monotonic() - 3600
    assert child.plan_restart() == 0


def test_a_stop_while_starting_ends_the_start(tmp_path: Path) -> None:
    with supervised(tmp_path, part("import time; time.sleep(600)")) as (supervisor, _):
        supervisor.stop()
        assert not supervisor.start(START_TIME)
        assert supervisor.is_stopped


def test_a_deaf_part_is_killed_within_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supervision.END_TIME + supervision.SERVER_END_TIME < 10
    monkeypatch.setattr(supervision, "END_TIME", 0.5)
    with supervised(tmp_path, part(DEAF), part(READY, "server", is_server=True)) as (supervisor, _):
        assert supervisor.start(START_TIME)
        supervisor.end()
        assert [child.state for child in supervisor.children] == ["ended", "ended"]


def test_children_of_a_part_end_with_it(tmp_path: Path) -> None:
    with supervised(tmp_path, part(PARENT)) as (supervisor, said):
        assert supervisor.start(START_TIME)
        group = supervisor.children[0].pid or 0
        assert len(group_members(group)) == 2
        os.kill(group, signal.SIGKILL)
        supervisor.run()
        eventually(lambda: not group_members(group), "the end of the child")
    assert said[-1] == "part answers again"


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is the kernel's, on Linux")
def test_who_is_on_the_leash_ends_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time; from demo import leash;"
        "child = subprocess.Popen(leash.command(['sleep', '600']), process_group=0);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        eventually(lambda: "sleep" in Path(f"/proc/{child}/cmdline").read_text(), "the sleep")
        parent.kill()
    eventually(lambda: not group_members(child), "the end of the child")


def test_a_long_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.supervisor.LONG_LOG", 10)
    (tmp_path / "part.log").write_text("of another day\n")
    with supervised(tmp_path, part(READY)) as (supervisor, _):
        assert supervisor.start(START_TIME)
    assert (tmp_path / "part.log.1").read_text() == "of another day\n"
    assert (tmp_path / "part.log").read_text() == "ready\n"
