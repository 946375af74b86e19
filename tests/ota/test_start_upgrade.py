"""`start_upgrade`: what it would do, what it starts, and how waiting for it ends."""

import datetime as dt
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from ota import rollouts
from ota.management.commands import start_upgrade
from ota.models import OrganizationPolicy, Rollout, RolloutEvent, UpgradeTask
from ota.states import TaskStatus
from tests.calls import Run, refusal
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)
from tests.people import make_person
from tests.processes import ROOT, Processes, eventually
from tests.servers import Server

pytestmark = pytest.mark.django_db

PASSED = "The start has passed already: choose a later one, or none to start at once."


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
    task = {"gateway_sn": dock.sn, "targets": [target], "waits_for": []} | {"wave": 1}
    assert told == {
        "dry_run": False,
        "rollout_id": rollout.pk,
        "tasks": [task],
        "excluded": [],
        "waves": [{"number": 1, "title": "", "docks": 1}],
        "needs_approval": False,
        "stays_open": False,
        "joining_get": [],
        "too_late": 0,
    }


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
@pytest.mark.parametrize(
    "models", [["--model", "3-2-0", "--model", "0-91-1"], ["--model", "3-2-0", "0-91-1"]]
)
def test_several_models_are_upgraded_together(run: Run, models: list[str]) -> None:
    dock = make_dock()
    make_aircraft(dock)
    told = run.answer("start_upgrade", *models, "--dry-run")
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


@pytest.mark.usefixtures("library", "redis_server")
@pytest.mark.parametrize(("said", "name"), [("   ", "Upgrade of "), (" Night ", "Night")])
def test_a_name_of_blanks_is_none(run: Run, said: str, name: str) -> None:
    assert run("start_upgrade", "--sn", make_dock().sn, "--name", said) == 0
    assert Rollout.objects.get().name.startswith(name)


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


def test_how_long_to_wait_is_a_wrong_call_where_nobody_waits() -> None:
    make_dock()
    message = "--timeout says how long to wait at most: give --wait too."
    assert refusal("start_upgrade", "--all", "--timeout", "5") == (2, message)
    assert not Rollout.objects.exists()


@pytest.mark.usefixtures("library", "redis_server")
def test_waiting_ends_when_the_time_is_over(run: Run) -> None:
    dock = make_dock()
    options = ["--wait", "--timeout", "0"]
    told = run.answer("start_upgrade", "--sn", dock.sn, *options, code=1)
    assert list(told) == [
        *("dry_run", "rollout_id", "tasks", "excluded", "waves", "needs_approval"),
        *("stays_open", "joining_get", "too_late", "status"),
    ]
    assert told["status"]["counts"]["pending"] == 1


# The policy


@pytest.mark.usefixtures("library", "redis_server")
def test_the_whole_policy_is_chosen(run: Run) -> None:
    docks = [make_dock().sn for _ in range(5)]
    run.answer(
        *("start_upgrade", "--all", "--waves", "1, 50%, rest", "--pilot", docks[3], "--ask"),
        *("--gate-first", "90", "--gate", "80", "--soak-minutes", "30", "--max-failed", "2"),
        *("--max-failed-percent", "none", "--failed-after", "4", "--limit-in-flight", "3"),
        *("--limit-per-site", "1", "--jitter-seconds", "60", "--windows", "daily 22:00-05:00"),
        *("--expected-minutes", "30", "--start", "2098-01-01T00:00+01:00"),
        *("--deadline", "2099-01-01"),
    )
    rollout = Rollout.objects.get()
    chosen = {name: getattr(rollout, name) for name in rollouts.FIELDS}
    assert chosen == {
        "waves": "1, 50%, rest",
        "gate_first": 90,
        "gate": 80,
        "soak_minutes": 30,
        "asks_between_waves": True,
        "max_failed": 2,
        "max_failed_percent": None,
        "failed_after": 4,
        "limit_in_flight": 3,
        "limit_per_site": 1,
        "jitter_seconds": 60,
        "windows": "daily 22:00-05:00",
        "expected_minutes": 30,
        "keeps_open": False,
    }
    assert rollout.starts_at == dt.datetime(2097, 12, 31, 23, tzinfo=dt.UTC)
    assert rollout.deadline_at == dt.datetime(2099, 1, 1, tzinfo=dt.UTC)


@pytest.mark.usefixtures("library")
def test_a_dry_run_tells_the_waves(run: Run) -> None:
    docks = [make_dock().sn for _ in range(5)]
    told = run.answer(
        "start_upgrade", "--all", "--waves", "50%, rest", "--pilot", docks[3], "--dry-run"
    )
    assert told["waves"] == [
        {"number": 1, "title": "pilot", "docks": 1},
        {"number": 2, "title": "", "docks": 2},
        {"number": 3, "title": "", "docks": 2},
    ]
    waves = {task["gateway_sn"]: task["wave"] for task in told["tasks"]}
    assert waves == dict(zip(docks, [2, 2, 3, 1, 3], strict=True))
    run("start_upgrade", "--all", "--waves", "1, rest", "--dry-run")
    assert re.search(r"Wave +Title +Docks", run.out)


@pytest.mark.usefixtures("library", "redis_server")
def test_a_rollout_that_needs_approval_says_so(run: Run) -> None:
    organization = make_organization()
    OrganizationPolicy.objects.create(organization=organization, approval_above=1)
    docks = [make_dock(organization=organization).sn for _ in range(2)]
    assert not run.answer("start_upgrade", "--sn", docks[0], "--dry-run")["needs_approval"]
    assert run.answer("start_upgrade", "--sn", *docks, "--dry-run")["needs_approval"]
    author = make_person("Operators").username
    assert run("start_upgrade", "--sn", *docks, "--user", author) == 0
    assert "Nothing is sent before somebody else than its author has approved it" in run.out
    assert Rollout.objects.get().status == Rollout.Status.NEEDS_APPROVAL


@pytest.mark.usefixtures("library")
def test_what_needs_a_second_person_is_not_started_by_nobody() -> None:
    """Else whoever did could approve it too."""
    organization = make_organization()
    OrganizationPolicy.objects.create(organization=organization, approval_above=0)
    dock = make_dock(organization=organization)
    code, message = refusal("start_upgrade", "--sn", dock.sn)
    assert (code, "say with --user in whose name it starts" in message) == (2, True)
    assert not Rollout.objects.exists()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_dry_run_says_that_the_rollout_will_need_an_author(
    capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    organization = make_organization()
    OrganizationPolicy.objects.create(organization=organization, approval_above=0)
    call = ("start_upgrade", "--sn", make_dock(organization=organization).sn, "--dry-run", *form)
    call_command(*call)
    assert "say with --user in whose name it starts" in capsys.readouterr().err
    call_command(*call, "--user", make_person("Operators").username)
    assert "--user" not in capsys.readouterr().err


@pytest.mark.usefixtures("library", "redis_server")
def test_who_starts_a_rollout_is_its_author(run: Run) -> None:
    make_dock()
    operator = make_person("Operators")
    run("start_upgrade", "--all", "--user", operator.username)
    assert Rollout.objects.get().created_by == operator


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--windows", "Mon 08:00-08:10"], "--windows: The hours last 10 min in a row at most"),
        (["--deadline", "2001-01-01"], "--deadline: The deadline has passed already."),
        (
            ["--start", "2099-01-02", "--deadline", "2099-01-01"],
            "--deadline: The deadline is before the start.",
        ),
        (["--start", "2020-01-01"], f"--start: {PASSED}"),
        (["--pilot", "NOBODY"], "--pilot: Not among the docks of this rollout: NOBODY."),
    ],
)
@pytest.mark.parametrize("is_dry", [True, False])
def test_a_policy_under_which_nothing_could_go_is_a_wrong_call(
    options: list[str], told: str, is_dry: bool
) -> None:
    make_dock()
    dry = ["--dry-run"] if is_dry else []
    code, message = refusal("start_upgrade", "--all", *options, *dry)
    assert (code, message.startswith(told)) == (2, True), message
    assert not Rollout.objects.exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--waves", "1, 10%", "the waves leave docks over; end them with 'rest'"),
        ("--waves", "60%, 60%", "the waves make 120 % of the docks; at most 100 % can go"),
        ("--waves", "0%, rest", "'0%' is no share of a wave; expected 1% to 100%"),
        ("--waves", "101%", "'101%' is no share of a wave; expected 1% to 100%"),
        ("--waves", ",".join(["1"] * 999) + ",rest", "1000 waves; at most 50 are taken"),
        ("--gate", "0", "Ensure this value is greater than or equal to 1"),
        ("--gate-first", "101", "Ensure this value is less than or equal to 100"),
        ("--max-failed", "-1", "Ensure this value is greater than or equal to 0"),
        ("--limit-in-flight", "none", "value must be an integer"),
        ("--windows", "Mon 08:00-08:00", "'Mon 08:00-08:00' never opens"),
        ("--windows", "Mox 08:00-09:00", "has a day that is none"),
        ("--to", "", "the version is empty"),
        ("--start", "tomorrow", "is no time; expected one such as"),
        ("--deadline", "2026-13-01", "is no time; expected one such as"),
        ("--deadline", "9999-12-31T23:59-12:00", "is no time; expected one such as"),
    ],
)
def test_a_value_that_is_not_right_names_its_option(option: str, value: str, told: str) -> None:
    _, message = refusal("start_upgrade", "--all", option, value)
    assert message.startswith(f"Error: argument {option}: ")
    assert told in message


@pytest.mark.usefixtures("library", "redis_server")
def test_waiting_says_that_a_rollout_needs_approval(capsys: pytest.CaptureFixture[str]) -> None:
    organization = make_organization()
    OrganizationPolicy.objects.create(organization=organization, approval_above=0)
    make_dock(organization=organization)
    author = ["--user", make_person("Operators").username]
    code, message = refusal("start_upgrade", "--all", "--wait", "--timeout", "0", "--json", *author)
    told = f"Rollout {Rollout.objects.get().pk} needs approval by somebody else than its author."
    assert told in capsys.readouterr().err
    assert (code, message) == (
        1,
        "Not finished within 0 s; it needs approval by somebody else than its author.",
    )


@pytest.mark.parametrize("is_retried", [True, False])
def test_what_failed_and_was_retried_is_judged_by_its_retry(is_retried: bool) -> None:
    rollout = make_rollout()
    failed = make_task(rollout=rollout, status=TaskStatus.FAILED)
    retry_of = failed if is_retried else None
    UpgradeTask.objects.filter(pk=failed.pk).update(
        resolved_at=timezone.now() if is_retried else None
    )
    make_task(failed.gateway, rollout=rollout, status=TaskStatus.OK, retry_of=retry_of)
    assert start_upgrade.are_proven(rollout) == is_retried


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
    told = json.loads(process.communicate(timeout=120)[0])
    assert process.returncode == code
    assert told["status"]["counts"][end] == 1
    assert told["status"]["rollout_id"] == told["rollout_id"]
    assert told["status"]["status"] == "finished"


@pytest.fixture
def renamed() -> Iterator[Callable[[], None]]:
    """Takes the table of rollouts away from all who look for it, until the end of the test."""
    table, other = Rollout._meta.db_table, "elsewhere"

    def rename() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME TO {other}")

    yield rename
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {other} RENAME TO {table}")


@pytest.mark.services
@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_while_it_is_waited_for_does_not_hide_which_rollout_was_started(
    processes: Processes, renamed: Callable[[], None]
) -> None:
    process = begin(processes, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pk = Rollout.objects.get().pk
    renamed()
    answer, said = process.communicate(timeout=120)
    told = json.loads(answer)
    assert (process.returncode, told["rollout_id"], "status" in told) == (1, pk, False)
    assert f"Rollout {pk} was started. The database does not do its part".encode() in said


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


@pytest.mark.usefixtures("library", "redis_server")
def test_the_history_says_who_started_it_or_that_it_was_at_the_terminal(run: Run) -> None:
    operator = make_person("Operators")
    run("start_upgrade", "--sn", make_dock().sn)
    run("start_upgrade", "--sn", make_dock().sn, "--user", operator.username)
    started = RolloutEvent.objects.filter(kind=RolloutEvent.Kind.STARTED)
    assert [event.by for event in started] == ["from the terminal", "operators"]
