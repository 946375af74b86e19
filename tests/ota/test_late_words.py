"""What a dock said before its last command was taken, and says to us only now, ends no attempt."""

import datetime as dt
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline
from ota.models import UpgradeTask
from ota.states import TaskStatus
from tests.make import envelope, make_task, progress, received
from tests.ota.doubt import ago, is_sent, say, stamp

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("willing_broker")]

RETRY = 312002


def report(
    task: UpgradeTask, status: str, at: dt.datetime, *, bid: str = "", is_again: bool = False
) -> None:
    """Progress that the dock stamped then."""
    data = progress(status, 60, "upgrade_firmware", RETRY if status == "failed" else 0)
    message = envelope(data, "ota_progress", bid=bid or task.bid, timestamp=stamp(at))
    topic = f"thing/product/{task.gateway.sn}/events"
    pipeline.process([received(topic, message, is_again=is_again)])
    task.refresh_from_db()


def take(task: UpgradeTask, tid: str = "", at: dt.datetime | None = None) -> None:
    """The dock says that it takes the command."""
    ids = {"bid": task.bid, "tid": tid or task.tid, "timestamp": stamp(at or timezone.now())}
    say(task, "services_reply", envelope({"result": 0}, "ota_create", **ids))


def restart(task: UpgradeTask, at: dt.datetime) -> None:
    """A topology, as after a start, with the dock's clock as it is then."""
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    message = envelope(data, "update_topo", timestamp=stamp(at))
    pipeline.process([received(f"sys/product/{task.gateway.sn}/status", message)])


def failed(at: dt.datetime) -> UpgradeTask:
    """Its first attempt failed, which was heard at once."""
    task = make_task(status=TaskStatus.IN_PROGRESS, sent_at=ago(9), replied_at=ago(9))
    report(task, "failed", at)
    assert (task.status, task.retries) == (TaskStatus.PENDING, 1)
    UpgradeTask.objects.update(progress_seen_at=at)
    return task


def sent_again(failed_at: dt.datetime) -> UpgradeTask:
    task = failed(failed_at)
    assert is_sent(task)
    task.refresh_from_db()
    return task


def seconds(number: float) -> dt.timedelta:
    return dt.timedelta(seconds=number)


# Earlier attempts


@pytest.mark.parametrize("is_again", [False, True])
@pytest.mark.parametrize("has_restarted", [False, True])
def test_a_late_word_of_the_last_failure_does_not_end_an_attempt_that_was_taken(
    *, is_again: bool, has_restarted: bool
) -> None:
    task = sent_again(ago(5))
    take(task)
    if has_restarted:
        restart(task, timezone.now())
    report(task, "failed", ago(5) + seconds(2), is_again=is_again)
    assert (task.status, task.retries) == (TaskStatus.SENT, 1)
    assert task.events.filter(is_late=True).count() == 1


def test_an_attempt_that_progress_alone_has_confirmed_is_not_ended_by_the_last_ones_failure() -> (
    None
):
    task = sent_again(ago(5))
    report(task, "in_progress", timezone.now())
    UpgradeTask.objects.update(progress_seen_at=ago(2))
    report(task, "failed", ago(5) + seconds(2))
    assert (task.status, task.retries) == (TaskStatus.IN_PROGRESS, 1)


def test_late_progress_of_an_attempt_that_failed_does_not_bring_it_back() -> None:
    task = failed(ago(3))
    report(task, "in_progress", ago(3) - seconds(4))
    assert task.status == TaskStatus.PENDING


def test_late_progress_of_an_attempt_that_failed_is_no_sign_of_the_next() -> None:
    task = sent_again(ago(3))
    report(task, "in_progress", ago(3) - seconds(4))
    report(task, "failed", ago(3) + seconds(2))
    assert (task.status, task.replied_at) == (TaskStatus.SENT, None)


def test_a_late_reply_to_the_attempt_that_failed_does_not_take_the_next() -> None:
    task = failed(ago(3))
    first = task.tid
    assert is_sent(task)
    task.refresh_from_db()
    take(task, tid=first, at=ago(8))
    assert (task.status, task.replied_at) == (TaskStatus.SENT, None)


def test_a_late_reply_to_a_retry_counts_although_the_command_went_out_once_more() -> None:
    task = sent_again(ago(3))
    retry = task.tid
    UpgradeTask.objects.update(attempt=3)
    task.refresh_from_db()
    take(task, tid=retry)
    assert task.replied_at


def test_an_attempt_begins_with_the_last_command_that_was_taken() -> None:
    """The first copy failed before the second came; its reply and its failure come late."""
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=2, sent_at=ago(3))
    take(task, tid="the first", at=ago(5))
    take(task, at=ago(2))
    UpgradeTask.objects.update(replied_at=ago(2))
    report(task, "failed", ago(4))
    assert (task.status, task.retries) == (TaskStatus.SENT, 0)


# Upgrades of others


@pytest.mark.parametrize("status", ["failed", "ok"])
@pytest.mark.parametrize("has_reply", [True, False])
def test_the_end_of_somebody_elses_upgrade_before_our_command_is_not_the_end_of_ours(
    status: str, *, has_reply: bool
) -> None:
    task = make_task(status=TaskStatus.SENT, sent_at=ago(1), replied_at=None)
    if has_reply:
        take(task)
    else:
        UpgradeTask.objects.update(replied_at=timezone.now())  # it was seen to upgrade
    report(task, status, ago(3), bid="pilot-2")
    assert (task.status, task.device_ok_at) == (TaskStatus.SENT, None)
    report(task, "in_progress", timezone.now())
    assert task.status == TaskStatus.IN_PROGRESS


# What is no late word


def test_the_failure_of_a_dock_with_a_slow_clock_counts() -> None:
    task = sent_again(ago(30))
    take(task, at=ago(10))
    report(task, "failed", ago(9))
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_the_failure_of_a_dock_with_a_slow_clock_counts_without_a_reply() -> None:
    task = sent_again(ago(30))
    report(task, "in_progress", ago(10))
    report(task, "failed", ago(9))
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_the_failure_of_a_dock_whose_clock_was_set_back_at_a_start_counts() -> None:
    task = sent_again(ago(30))
    UpgradeTask.objects.update(sent_at=ago(20))
    take(task)
    restart(task, ago(180))
    report(task, "failed", ago(179))
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_a_word_from_before_a_start_that_set_the_clock_back_is_late() -> None:
    task = sent_again(ago(30))
    take(task)
    restart(task, ago(20))
    report(task, "failed", ago(29))
    assert (task.status, task.retries) == (TaskStatus.SENT, 1)


def test_the_failure_of_a_dock_counts_after_our_own_clock_was_set_back() -> None:
    task = sent_again(ago(30))
    take(task)
    with time_machine.travel(timezone.now() - dt.timedelta(hours=1)):
        Device.objects.update(topology_seen_at=None)
        UpgradeTask.objects.update(replied_at=ago(1), progress_seen_at=ago(30))
        report(task, "failed", timezone.now() + dt.timedelta(hours=1))
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_progress_goes_on_when_the_docks_clock_was_set_back_in_the_middle() -> None:
    task = sent_again(ago(30))
    take(task)
    report(task, "in_progress", ago(60))
    assert task.status == TaskStatus.IN_PROGRESS


def test_a_first_attempt_whose_reply_was_lost_may_end_by_a_slow_clock() -> None:
    task: Any = make_task(status=TaskStatus.SENT, replied_at=None)
    report(task, "failed", ago(10))
    assert (task.status, task.retries) == (TaskStatus.PENDING, 1)
