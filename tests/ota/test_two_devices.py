"""One stream of progress for a dock and its aircraft: the success of the first may not be the end."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline
from mqtt_bridge.pipeline import Read
from ota.models import UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from tests.make import NEW, envelope, make_aircraft, make_dock, make_task, progress, received
from tests.ota.doubt import ago, enforce, stamp, tell_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("willing_broker")]


@pytest.fixture
def task() -> UpgradeTask:
    """Of a dock and its aircraft, of which neither has proved anything."""
    dock = make_dock()
    times: dict[str, Any] = {"sent_at": ago(40), "replied_at": ago(40)}
    return make_task(dock, aircraft=make_aircraft(dock), status=TaskStatus.IN_PROGRESS, **times)


def message(
    task: UpgradeTask, status: str, at: dt.datetime, result: int = 0, bid: str = ""
) -> Read:
    data = progress(status, 100 if status == "ok" else 20, result=result)
    told = envelope(data, "ota_progress", bid=bid or task.bid, timestamp=stamp(at))
    return received(f"thing/product/{task.gateway.sn}/events", told)


def report(task: UpgradeTask, status: str, at: dt.datetime, result: int = 0, bid: str = "") -> None:
    pipeline.process([message(task, status, at, result, bid)])
    task.refresh_from_db()


@pytest.mark.parametrize("together", [True, False])
def test_a_dock_that_goes_on_after_a_success_is_followed(
    task: UpgradeTask, *, together: bool
) -> None:
    told = [message(task, "ok", ago(2)), message(task, "in_progress", ago(1))]
    for batch in [told] if together else [[one] for one in told]:
        pipeline.process(batch)
    task.refresh_from_db()
    assert (task.status, task.device_ok_at) == (TaskStatus.IN_PROGRESS, None)


def test_the_success_of_the_second_ends_it_once_both_have_proved_it(task: UpgradeTask) -> None:
    for status, minutes in [("ok", 4), ("in_progress", 3), ("ok", 2)]:
        report(task, status, ago(minutes))
    assert task.status == TaskStatus.VERIFYING
    assert task.device_ok_at
    tell_version(task, NEW)
    aircraft = task.targets.exclude(device=task.gateway).get().device
    told = envelope({"firmware_version": NEW})
    pipeline.process([received(f"thing/product/{aircraft.sn}/state", told)])
    task.refresh_from_db()
    assert task.status == TaskStatus.OK


def test_a_failure_of_the_second_ends_the_attempt(task: UpgradeTask) -> None:
    for status, minutes in [("ok", 4), ("in_progress", 3), ("failed", 2)]:
        report(task, status, ago(minutes), 312016 if status == "failed" else 0)
    assert (task.status, task.result) == (TaskStatus.FAILED, 312016)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("word", ["failed", "rejected", "canceled", "ok"])
def test_a_failure_of_the_second_counts_although_nothing_was_told_in_between(
    task: UpgradeTask, word: str, *, together: bool
) -> None:
    told = [message(task, "ok", ago(0.4)), message(task, word, ago(0.2), 312002)]
    for batch in [told] if together else [[one] for one in told]:
        pipeline.process(batch)
    task.refresh_from_db()
    assert (task.status, task.retries, task.result) == (TaskStatus.PENDING, 1, 312002)
    assert task.device_ok_at is None


def test_a_failure_from_before_the_success_is_late_whenever_it_comes(task: UpgradeTask) -> None:
    report(task, "ok", ago(2))
    for seen_at in (timezone.now(), ago(2)):
        UpgradeTask.objects.update(progress_seen_at=seen_at)
        report(task, "failed", ago(3), 312002)
    report(task, "failed", task.progress_at or ago(2), 312002)
    assert (task.status, task.retries) == (TaskStatus.VERIFYING, 0)
    assert task.device_ok_at


def test_the_failure_of_somebody_elses_upgrade_after_the_success_is_none_of_ours(
    task: UpgradeTask,
) -> None:
    report(task, "ok", ago(2))
    report(task, "failed", ago(1), 312002, bid="pilot-2")
    assert (task.status, task.retries) == (TaskStatus.VERIFYING, 0)
    assert task.device_ok_at


def test_progress_from_before_the_success_that_comes_late_changes_nothing(
    task: UpgradeTask,
) -> None:
    report(task, "ok", ago(2))
    UpgradeTask.objects.update(progress_seen_at=ago(2))
    report(task, "in_progress", ago(3))
    report(task, "in_progress", task.progress_at or ago(2))
    assert task.status == TaskStatus.VERIFYING
    assert task.device_ok_at


def test_where_one_device_is_upgraded_its_success_is_the_end() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, "ok", ago(0.5))
    report(task, "in_progress", ago(0.4))
    report(task, "failed", ago(0.3), 312002)
    assert task.status == TaskStatus.VERIFYING
    assert task.device_ok_at


def test_a_success_is_the_end_of_devices_that_have_proved_themselves(task: UpgradeTask) -> None:
    UpgradeTarget.objects.update(confirmed_at=timezone.now())
    Device.objects.update(firmware_version=NEW)
    report(task, "ok", ago(2))
    assert task.status == TaskStatus.OK


@pytest.mark.parametrize("mode", [3, 0])
def test_a_dock_that_says_that_it_upgrades_has_not_failed_to_prove_it(
    task: UpgradeTask, mode: int
) -> None:
    times: dict[str, Any] = {
        "status_at": ago(16),
        "progress_seen_at": ago(16),
        "device_ok_at": ago(16),
    }
    UpgradeTask.objects.update(status=TaskStatus.VERIFYING, **times)
    Device.objects.update(mode_code=mode, last_seen_at=timezone.now())
    enforce(task)
    assert task.status == (TaskStatus.VERIFYING if mode == 3 else TaskStatus.FAILED)


def test_a_dock_that_says_for_ever_that_it_upgrades_has_failed(task: UpgradeTask) -> None:
    times: dict[str, Any] = {
        "status_at": ago(90),
        "progress_seen_at": ago(90),
        "device_ok_at": ago(90),
    }
    UpgradeTask.objects.update(status=TaskStatus.VERIFYING, sent_at=ago(106), **times)
    Device.objects.update(mode_code=3, last_seen_at=timezone.now())
    enforce(task)
    assert task.status == TaskStatus.FAILED
