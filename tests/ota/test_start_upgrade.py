"""`start_upgrade`: what it would do, what it starts, and how waiting for it ends."""

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from ota.models import Rollout, UpgradeTask
from ota.states import TaskStatus
from tests.calls import Run, refusal
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_package,
)
from tests.processes import ROOT, Processes, eventually
from tests.servers import Server

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def library() -> None:
    make_listening()
    make_package()


@pytest.mark.usefixtures("library", "redis_server")
def test_a_rollout_is_started(run: Run) -> None:
    dock = make_dock()
    told = run.answer("start_upgrade", "--sn", dock.sn, "--name", "Night", "--limit-in-flight", "3")
    rollout = Rollout.objects.get()
    assert (rollout.name, rollout.limit_in_flight) == ("Night", 3)
    target = {
        "sn": dock.sn,
        "upgrade_type": "regular",
        "from_version": OLD,
        "to_version": NEW,
    }
    task = {"gateway_sn": dock.sn, "targets": [target], "waits_for": []}
    assert told == {"dry_run": False, "rollout_id": rollout.pk, "tasks": [task], "excluded": []}


@pytest.mark.usefixtures("library")
def test_a_rollout_starts_later_while_redis_is_away(run: Run, redis_server: Server) -> None:
    redis_server.stop()
    assert run.answer("start_upgrade", "--sn", make_dock().sn)["rollout_id"]
    assert UpgradeTask.objects.get().status == TaskStatus.PENDING


@pytest.mark.usefixtures("library")
def test_a_dry_run_starts_nothing(run: Run) -> None:
    dock = make_dock(mode_code=4)
    told = run.answer("start_upgrade", "--sn", dock.sn, "--dry-run")
    assert (told["dry_run"], told["rollout_id"], len(told["tasks"])) == (True, None, 1)
    assert told["tasks"][0]["waits_for"] == [{"code": "busy", "text": "the dock is working"}]
    assert not Rollout.objects.exists()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--wait"]])
def test_nothing_to_upgrade_is_not_as_asked(run: Run, options: list[str]) -> None:
    dock = make_dock(NEW)
    told = run.answer("start_upgrade", "--sn", dock.sn, *options, code=1)
    assert (told["rollout_id"], told["tasks"]) == (None, [])
    text = f"it has {NEW} already"
    assert told["excluded"] == [{"sn": dock.sn, "code": "up_to_date", "text": text}]


@pytest.mark.usefixtures("library", "redis_server")
def test_the_aircraft_of_chosen_docks_comes_along_if_asked_to(run: Run) -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    told = run.answer("start_upgrade", "--sn", dock.sn, "--with-aircraft")
    assert [target["sn"] for target in told["tasks"][0]["targets"]] == [aircraft.sn, dock.sn]


@pytest.mark.usefixtures("library", "redis_server")
def test_all_devices_of_a_model_are_upgraded(run: Run) -> None:
    aircraft = make_aircraft(make_dock())
    told = run.answer("start_upgrade", "--model", "0-91-1", "--to", "10.01.32.05")
    assert [target["sn"] for target in told["tasks"][0]["targets"]] == [aircraft.sn]


@pytest.mark.usefixtures("library", "redis_server")
def test_several_models_are_upgraded_together(run: Run) -> None:
    dock = make_dock()
    make_aircraft(dock)
    told = run.answer("start_upgrade", "--model", "3-2-0", "--model", "0-91-1", "--dry-run")
    assert len(told["tasks"][0]["targets"]) == 2


@pytest.mark.usefixtures("library", "redis_server")
def test_the_whole_fleet_is_upgraded(run: Run) -> None:
    for _ in range(3):
        make_dock()
    assert len(run.answer("start_upgrade", "--all")["tasks"]) == 3


@pytest.mark.usefixtures("library", "redis_server")
def test_a_downgrade_has_to_be_allowed(run: Run) -> None:
    dock = make_dock("14.03.0915")
    told = run.answer("start_upgrade", "--sn", dock.sn, code=1)
    assert told["excluded"][0]["code"] == "downgrade"
    assert run.answer("start_upgrade", "--sn", dock.sn, "--allow-downgrade")["tasks"]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sn", "NOBODY1", "NOBODY2"], "Unknown serial number: NOBODY1, NOBODY2"),
        (["--model", "3-99-0"], "Unknown device model: 3-99-0"),
        (["--all", "--to", "10.01.9999"], "Unknown version (no available package): 10.01.9999"),
    ],
)
def test_what_nobody_knows_is_a_wrong_call(arguments: list[str], message: str) -> None:
    assert refusal("start_upgrade", *arguments) == (2, message)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all", "--sn", "X"],
        ["--all", "--model", "3-2-0"],
        ["--all", "--to", "newest"],
        ["--all", "--limit-in-flight", "0"],
        ["--all", "--timeout", "soon"],
        ["--all", "--name", "x" * 201],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="Error: "):
        call_command("start_upgrade", *arguments)


@pytest.mark.usefixtures("library", "redis_server")
def test_waiting_ends_when_the_time_is_over(run: Run) -> None:
    dock = make_dock()
    options = ["--wait", "--timeout", "0"]
    told = run.answer("start_upgrade", "--sn", dock.sn, *options, code=1)
    assert list(told) == ["dry_run", "rollout_id", "tasks", "excluded", "status"]
    assert told["status"]["counts"]["pending"] == 1


# As a process of its own, while the tasks end.


_BRIEFLY = ("--timeout", "30")  # so that a failed test leaves nobody waiting


def begin(processes: Processes, *options: str, **streams: Any) -> "subprocess.Popen[bytes]":
    """Starts a rollout of everything and waits until its task is there."""
    make_listening()
    make_package()
    make_dock()
    command = [sys.executable, "manage.py", "start_upgrade", "--all", "--wait", *_BRIEFLY, *options]
    environment = os.environ | processes.environment
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **streams)
    eventually(UpgradeTask.objects.exists, "the launch")
    return process


def finish(end: TaskStatus) -> None:
    pks = UpgradeTask.objects.values_list("pk", flat=True)
    UpgradeTask.objects.move(pks, end, timezone.now())


@pytest.mark.services
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("end", "code"), [(TaskStatus.OK, 0), (TaskStatus.FAILED, 1), (TaskStatus.CANCELED, 1)]
)
def test_waiting_tells_how_it_ended(processes: Processes, end: TaskStatus, code: int) -> None:
    process = begin(processes, "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    finish(end)
    told = json.loads(process.communicate(timeout=20)[0])
    assert process.returncode == code
    assert told["status"]["counts"][end] == 1
    assert told["status"]["rollout_id"] == told["rollout_id"]
    assert told["status"]["status"] == "finished"


@pytest.mark.services
@pytest.mark.django_db(transaction=True)
def test_a_terminal_shows_progress_while_waiting(processes: Processes) -> None:
    ours, theirs = pty.openpty()
    process = begin(processes, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = read_until(ours, b"1 task: 1 pending")
    assert "━".encode() in seen  # the bar
    finish(TaskStatus.OK)
    read_until(ours, b"1 task: 1 ok")
    assert process.wait(20) == 0
    os.close(ours)


def read_until(stream: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(stream, 4096)
    return seen
