"""`import_firmware`, `fleet_status` and `upgrade_status`: documents, exit codes, tables."""

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from ota import rollouts, status
from ota.management import watching
from ota.models import FirmwarePackage, ProductCode, Rollout, UpgradeTask
from ota.states import TaskStatus
from simulator.packages import build
from tests.calls import Run, refusal
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_device,
    make_dock,
    make_failed,
    make_listening,
    make_model,
    make_package,
    make_rollout,
    make_task,
    make_wave,
)

pytestmark = pytest.mark.django_db

DAY = date(2024, 11, 7)


@pytest.fixture
def dock2(tmp_path: Path) -> str:
    make_model("3-2-0")
    return str(build(tmp_path, "DOCK2", NEW, DAY, 50_000))


# The library


def test_a_package_is_imported(run: Run, dock2: str) -> None:
    (told,) = run.answer("import_firmware", dock2, "--model", "3-2-0")
    package = FirmwarePackage.objects.get()
    assert told == {
        "id": package.pk,
        "file_name": "DOCK2_V10.01.3205.zip",
        "models": ["3-2-0"],
        "version": NEW,
        "released_on": "2024-11-07",
        "size": Path(dock2).stat().st_size,
        "md5": package.md5,
        "state": "available",
        "minimum_version": None,
        "created": True,
        "error": None,
    }


def test_what_is_said_is_stored(run: Run, dock2: str) -> None:
    options = [
        "--released",
        "2025-01-02",
        "--confirm",
        "--notes",
        "Fixes",
        "--draft",
        "--product-version",
        NEW,
    ]
    (told,) = run.answer("import_firmware", dock2, "--model", "3-2-0", *options)
    package = FirmwarePackage.objects.get()
    assert (told["released_on"], told["state"], package.notes) == ("2025-01-02", "draft", "Fixes")


def test_importing_twice_changes_nothing(run: Run, dock2: str) -> None:
    (first,) = run.answer("import_firmware", dock2, "--model", "3-2-0")
    (second,) = run.answer("import_firmware", dock2)
    assert second == first | {"created": False}


def test_a_refused_file_does_not_keep_the_others_out(run: Run, dock2: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip")
    told = run.answer("import_firmware", str(broken), dock2, "--model", "3-2-0", code=1)
    assert [each["file_name"] for each in told] == ["broken.zip", "DOCK2_V10.01.3205.zip"]
    assert "broken.zip is no zip" in told[0]["error"]
    assert told[0].keys() == told[1].keys()
    assert told[1]["created"]


def test_a_storage_that_fails_is_told(run: Run, dock2: str, tmp_path: Path) -> None:
    (tmp_path / "media").write_text("no folder")
    (told,) = run.answer("import_firmware", dock2, "--model", "3-2-0", code=1)
    assert "could not be stored" in told["error"]
    assert not FirmwarePackage.objects.exists()


@pytest.mark.parametrize("knows_packages", [False, True])
def test_a_storage_that_is_away_is_told_in_words_alone(
    run: Run, dock2: str, settings: Settings, caplog: pytest.LogCaptureFixture, knows_packages: bool
) -> None:
    if knows_packages:
        make_package(OLD)
    backend = "django.core.files.storage.FileSystemStorage"
    entry = {"BACKEND": backend, "OPTIONS": {"location": "/proc/nowhere"}}
    settings.STORAGES = settings.STORAGES | {"default": entry}
    (told,) = run.answer("import_firmware", dock2, "--model", "3-2-0", code=1)
    assert "could not be stored" in told["error"]
    assert not [record for record in caplog.records if record.exc_info]


def test_people_get_a_table(run: Run, dock2: str) -> None:
    assert run("import_firmware", dock2, "--model", "3-2-0") == 0
    assert re.search(r"DOCK2_V10\.01\.3205\.zip +10\.01\.3205 +3-2-0 +2024-11-07", run.out)


def test_a_file_that_is_not_there_is_a_wrong_call(dock2: str) -> None:
    code, message = refusal("import_firmware", dock2, "a.zip", "b.zip", "--model", "3-2-0")
    assert (code, message) == (2, "No such file or folder: a.zip, b.zip")
    assert not FirmwarePackage.objects.exists()


def test_an_unknown_model_is_a_wrong_call(dock2: str) -> None:
    code, message = refusal("import_firmware", dock2, "--model", "3-99-0", "--model", "3-2-0")
    assert (code, message) == (2, "Unknown device model: 3-99-0")


def test_a_known_product_code_saves_naming_the_models(run: Run, dock2: str) -> None:
    ProductCode.objects.create(code="wm9s2").models.set([make_model("3-2-0")])
    (told,) = run.answer("import_firmware", dock2)
    assert told["models"] == ["3-2-0"]


# The fleet


def test_a_device_is_told_in_full(run: Run) -> None:
    make_listening()
    make_package()
    dock = make_dock()
    aircraft = make_aircraft(dock, NEW, compatible_status=1)
    told = {each["sn"]: each for each in run.answer("fleet_status")}
    assert list(told) == sorted([dock.sn, aircraft.sn])
    assert told[dock.sn] == {
        "sn": dock.sn,
        "model_key": "3-2-0",
        "model": str(dock.model),
        "kind": "dock",
        "gateway_sn": None,
        "organization": dock.organization and dock.organization.identifier,
        "site": None,
        "online": True,
        "last_seen_at": dock.last_seen_at and dock.last_seen_at.isoformat(),
        "firmware_version": OLD,
        "compatible_status": 0,
        "firmware_upgrade_status": None,
        "mode_code": 0,
        "need": "regular",
        "target_version": NEW,
        "blockers": [],
    }
    assert told[aircraft.sn]["gateway_sn"] == dock.sn
    assert told[aircraft.sn]["need"] == "consistency"


def test_a_device_that_nobody_has_marked_as_silent_yet_is_offline_all_the_same(run: Run) -> None:
    heard, silent = make_dock(), make_dock(last_seen_at=timezone.now() - timedelta(seconds=61))
    told = {each["sn"]: each["online"] for each in run.answer("fleet_status")}
    assert told == {heard.sn: True, silent.sn: False}


def test_blockers_have_a_code_and_a_text(run: Run) -> None:
    make_dock(mode_code=4)
    (told,) = run.answer("fleet_status")
    assert {"code": "busy", "text": "the dock is working"} in told["blockers"]


def test_a_device_that_told_nothing_has_nulls(run: Run) -> None:
    make_device(model="9-9-9", version="", compatible_status=None, organization=None)
    (told,) = run.answer("fleet_status")
    assert (told["firmware_version"], told["organization"], told["need"]) == (None, None, "unknown")


def test_the_fleet_is_narrowed_to_a_need(run: Run) -> None:
    make_package()
    wanted = make_dock(NEW, compatible_status=1)
    make_dock()
    (told,) = run.answer("fleet_status", "--need", "consistency")
    assert told["sn"] == wanted.sn


def test_the_fleet_is_narrowed_to_named_devices(run: Run) -> None:
    a, b, _ = make_dock().sn, make_dock().sn, make_dock().sn
    told = run.answer("fleet_status", "--sn", a, "--sn", b)
    assert [each["sn"] for each in told] == sorted([a, b])


def test_unknown_devices_are_a_wrong_call() -> None:
    code, message = refusal("fleet_status", "--sn", "NOBODY1", make_dock().sn, "NOBODY2")
    assert (code, message) == (2, "Unknown serial number: NOBODY1, NOBODY2")


def test_an_empty_fleet_is_an_empty_list(run: Run) -> None:
    assert run.answer("fleet_status") == []
    assert run("fleet_status") == 0
    assert run.out == "No devices.\n"


def test_the_status_of_many_devices_costs_no_more_queries(
    run: Run, django_assert_max_num_queries: Any
) -> None:
    make_package()
    for _ in range(2):
        make_aircraft(make_dock())
    with django_assert_max_num_queries(10) as few:
        run("fleet_status")
    for _ in range(20):
        make_aircraft(make_dock())
    with django_assert_max_num_queries(10) as many:
        run("fleet_status")
    assert len(many) == len(few)


# Rollouts


def test_a_rollout_is_told_in_full(run: Run) -> None:
    rollout = make_rollout(name="Night")
    dock = make_dock()
    task = make_task(
        dock, rollout=rollout, status=TaskStatus.FAILED, percent=40, step="upgrade_firmware",
        rate=900, result=312704,
    )  # fmt: skip
    told = run.answer("upgrade_status", str(rollout.pk))
    assert told.pop("counts")["failed"] == 1
    (row,) = told.pop("tasks")
    opened_at = rollout.wave_set.get().opened_at
    wave = {
        "number": 1,
        "title": "",
        "opened_at": opened_at and opened_at.isoformat(),
        "tasks": 1,
        "finished": 1,
        "proven": 0,
        "failed": 1,
        "gate": 100,
    }
    assert told == {
        "rollout_id": rollout.pk,
        "name": "Night",
        "status": "running",
        "pause_reason": None,
        "created_at": rollout.created_at.isoformat(),
        "starts_at": None,
        "deadline_at": None,
        "waves": [wave],
    }
    target = {
        "sn": dock.sn,
        "upgrade_type": "regular",
        "from_version": OLD,
        "to_version": NEW,
        "reported_version": None,
        "confirmed": False,
    }
    assert row.pop("advice").startswith("312704: ")
    assert row == {
        "gateway_sn": dock.sn,
        "wave": 1,
        "bid": task.bid,
        "status": "failed",
        "message": None,
        "percent": 40,
        "step": "upgrade_firmware",
        "rate": 900,
        "result": 312704,
        "attempt": 1,
        "retries": 0,
        "not_before": None,
        "needs_attention": True,
        "no_show": False,
        "waits_for": [],
        "targets": [target],
    }


@pytest.mark.parametrize("state", ["running", "paused", "needs_approval", "canceled"])
def test_only_a_rollout_that_runs_waits_for_what_blocks_a_dock(run: Run, state: str) -> None:
    reasons = [{"code": "offline", "text": "the dock is offline"}]
    rollout = make_rollout(status=state)
    make_task(rollout=rollout, waits_for=reasons)
    (task,) = run.answer("upgrade_status", str(rollout.pk))["tasks"]
    # Nobody looks at the dock any more, which may be online long since.
    assert task["waits_for"] == (reasons if state == "running" else [])
    run("upgrade_status", str(rollout.pk))
    assert ("is offline" in run.out) == (state == "running")


@pytest.mark.parametrize("tasks", [1, 7])
def test_telling_of_a_rollout_costs_the_same_for_any_number_of_tasks(
    tasks: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    rollout = make_rollout()
    for _ in range(tasks):
        make_task(rollout=rollout)
    with django_assert_num_queries(3):
        status.of_rollout(rollout)


class Movement:
    """Before each query that is asked inside, a task more is proven."""

    def __init__(self, rollout: Rollout) -> None:
        self.tasks = list(rollout.tasks.values_list("pk", flat=True))
        self.is_moving = False

    def __call__(self, execute: Any, *asked: Any) -> Any:
        if not self.is_moving:
            self.is_moving = True
            UpgradeTask.objects.filter(pk=self.tasks.pop()).update(status=TaskStatus.OK)
            self.is_moving = False
        return execute(*asked)


def test_what_is_told_of_a_rollout_does_not_contradict_itself_while_things_move() -> None:
    rollout = make_rollout()
    for _ in range(20):
        make_task(rollout=rollout, status=TaskStatus.VERIFYING)
    with connection.execute_wrapper(Movement(rollout)):
        found = status.of_rollout(rollout)
    proven = sum(task["status"] == "ok" for task in found["tasks"])
    assert 0 < proven < 20
    assert (found["counts"]["ok"], found["counts"]["verifying"]) == (proven, 20 - proven)
    assert (found["waves"][0]["proven"], found["waves"][0]["tasks"]) == (proven, 20)


def test_a_wave_counts_what_was_retried_once_and_the_counts_each_task() -> None:
    rollout = make_failed().rollout
    later = make_wave(rollout, 2)
    make_failed(rollout, wave=later)
    make_task(rollout=rollout, wave=later, status=TaskStatus.CANCELED)
    rollouts.retry(rollout, timezone.now(), pks=[rollout.tasks.order_by("pk")[0].pk])
    found = status.of_rollout(rollout)
    assert (found["counts"]["failed"], len(found["tasks"])) == (2, 4)
    names = ("tasks", "finished", "proven", "failed")
    assert [[wave[name] for name in names] for wave in found["waves"]] == [
        [1, 0, 0, 0],
        [2, 1, 0, 1],
    ]
    assert found["waves"] == status.of_waves(rollout)


def test_a_paused_rollout_says_why(run: Run) -> None:
    rollout = make_rollout(status="paused", pause_reason="paused by ann")
    told = run.answer("upgrade_status", str(rollout.pk))
    assert (told["status"], told["pause_reason"]) == ("paused", "paused by ann")
    assert run("upgrade_status", str(rollout.pk)) == 0
    assert "paused (paused by ann)" in run.out


def test_a_rollout_that_is_watched_says_once_why_it_is_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollout = make_rollout(status="paused", pause_reason="paused by ann")
    make_task(rollout=rollout)
    monkeypatch.setattr(watching, "PAUSE", 0.01)
    told: list[str] = []
    assert not watching.watch(rollout, None, 0.2, tell=told.append)
    assert told == [f"Rollout {rollout.pk} is paused: paused by ann"]


def test_counts_name_every_status(run: Run) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    counts = run.answer("upgrade_status", str(rollout.pk))["counts"]
    assert list(counts) == TaskStatus.values
    assert counts["pending"] == sum(counts.values()) == 1


def test_people_see_how_a_rollout_stands(run: Run) -> None:
    rollout = make_rollout(name="Night [red]")
    task = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS, percent=40)
    assert run("upgrade_status", str(rollout.pk)) == 0
    assert "Night [red]: running" in run.out
    assert re.search(rf"{task.gateway.sn} +1 +in_progress +40 %", run.out)
    assert "1 task: 1 in_progress" in run.out


def test_people_see_the_waves_and_why_a_rollout_does_not_go_on(run: Run) -> None:
    rollout = make_rollout(name="Night", status="paused", pause_reason="3 upgrades failed")
    make_wave(rollout, 2, title="Harbour", opened_at=None, gate=95)
    run("upgrade_status", str(rollout.pk))
    assert "Night: paused (3 upgrades failed)" in run.out
    assert re.search(r"2 +Harbour +not yet +0 +0 +0 +0 +95 %", run.out)


def test_times_and_retries_are_told(run: Run) -> None:
    soon = timezone.now() + timedelta(hours=1)
    rollout = make_rollout(starts_at=soon, deadline_at=soon + timedelta(days=1))
    make_task(rollout=rollout, retries=2, not_before=soon)
    told = run.answer("upgrade_status", str(rollout.pk))
    assert told["starts_at"] == told["tasks"][0]["not_before"] == soon.isoformat()
    assert told["deadline_at"] == (soon + timedelta(days=1)).isoformat()
    assert (told["tasks"][0]["retries"], told["tasks"][0]["needs_attention"]) == (2, False)


def test_people_see_why_an_upgrade_failed_and_when_it_goes_again(run: Run) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    pause = {"code": "not_yet", "text": "its pause lasts until 22:38"}
    task = make_task(result=312003, retries=1, not_before=soon, waits_for=[pause])
    run("upgrade_status", str(task.rollout_id))
    assert "312003: " in run.out
    assert "22:38" in run.out


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.REJECTED])
def test_what_failed_needs_attention_until_it_is_dismissed(run: Run, status: TaskStatus) -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout, status=status)
    assert run.answer("upgrade_status", str(rollout.pk))["tasks"][0]["needs_attention"]
    task.resolved_at = timezone.now()
    task.save()
    assert not run.answer("upgrade_status", str(rollout.pk))["tasks"][0]["needs_attention"]


@pytest.mark.parametrize("words", [["--json"], []])
def test_who_stops_watching_is_told_that_the_rollout_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)

    def press(rollout: Rollout) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "counts", press)
    with pytest.raises(SystemExit) as end:
        call_command("upgrade_status", str(rollout.pk), "--watch", *words)
    assert end.value.code == 130
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"No longer waiting; rollout {rollout.pk} goes on.\n")


def test_more_devices_than_a_rollout_takes_are_a_wrong_call(settings: Settings) -> None:
    settings.ROLLOUT_MOST_DEVICES = 1
    make_dock()
    make_dock()
    code, text = refusal("start_upgrade", "--all")
    assert code == 2
    assert text.startswith("2 devices are chosen, and a rollout takes 1 at most")


def test_watching_ends_with_the_rollout(run: Run) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, status=TaskStatus.OK)
    told = run.answer("upgrade_status", str(rollout.pk), "--watch")
    assert told["counts"]["ok"] == 1


def test_an_unknown_rollout_is_a_wrong_call() -> None:
    assert refusal("upgrade_status", "4711") == (2, "Unknown rollout: 4711")


def test_the_status_of_many_tasks_costs_no_more_queries(
    run: Run, django_assert_max_num_queries: Any
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    with django_assert_max_num_queries(7) as few:
        run("upgrade_status", str(rollout.pk))
    for number in range(2, 22):
        dock, wave = make_dock(), make_wave(rollout, number)
        make_task(dock, rollout=rollout, aircraft=make_aircraft(dock), wave=wave)
    with django_assert_max_num_queries(7) as many:
        run("upgrade_status", str(rollout.pk))
    assert len(many) == len(few)
