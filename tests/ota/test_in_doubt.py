"""After a command of which nobody knows what became nothing is sent blindly."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, publisher
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from mqtt_bridge.models import Heard
from ota import rollouts
from ota.models import FirmwarePackage, ForeignUpgrade, TaskEvent, UpgradeTask
from ota.packages import changes
from ota.rollouts import course
from ota.states import TaskStatus
from ota.upgrades import limits
from tests.make import (
    OLD,
    envelope,
    make_dock,
    make_rollout,
    make_task,
    progress,
    received,
)
from tests.ota.doubt import (
    RESTARTED,
    accept,
    ago,
    enforce,
    fail,
    gone,
    is_sent,
    say,
    stamp,
    tell_topology,
    tell_version,
    vanished,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("willing_broker")]


# A restart in the middle


def test_after_a_restart_in_the_middle_what_the_device_reports_decides() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, RESTARTED)
    assert (task.status, task.result, task.device_ok_at) == (TaskStatus.VERIFYING, RESTARTED, None)
    assert not is_sent(task)


def test_a_device_that_has_the_new_version_after_a_restart_in_the_middle_is_proven() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, RESTARTED)
    tell_version(task, task.targets.get().to_version)
    assert (task.status, task.result, task.advice) == (TaskStatus.OK, 0, None)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_restart_in_the_middle_is_tried_again_once_the_old_version_is_reported(
    *, is_known: bool
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, RESTARTED)
    Device.objects.update(firmware_seen_at=timezone.now() if is_known else ago(24 * 60))
    UpgradeTask.objects.update(status_at=ago(16), sent_at=ago(30), progress_seen_at=ago(16))
    enforce(task)
    assert task.status == (TaskStatus.PENDING if is_known else TaskStatus.TIMEOUT)
    assert task.result == RESTARTED


def test_the_old_version_may_come_before_the_word_of_the_restart() -> None:
    """The dock is back, says what it has, and only then that it had restarted."""
    task = make_task(status=TaskStatus.IN_PROGRESS, sent_at=ago(5), replied_at=ago(5))
    tell_topology(task)
    tell_version(task, OLD)
    fail(task, RESTARTED)
    UpgradeTask.objects.update(status_at=ago(16), progress_seen_at=ago(16))
    enforce(task)
    assert task.status == TaskStatus.PENDING


def test_a_version_from_before_progress_decides_nothing_though_a_topology_came_before_it() -> None:
    """The dock switched its aircraft on for the upgrade; that is no restart."""
    task = make_task(status=TaskStatus.IN_PROGRESS, sent_at=ago(20), replied_at=ago(20))
    tell_topology(task)
    tell_version(task, OLD)
    say(task, "events", envelope(progress(), "ota_progress", bid=task.bid))
    fail(task, RESTARTED)
    UpgradeTask.objects.update(status_at=ago(16), progress_seen_at=ago(16))
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


def test_a_version_from_before_the_dock_took_the_command_decides_nothing_though_it_comes_late() -> (
    None
):
    told: dict[str, Any] = {
        "sent_at": ago(45),
        "replied_at": ago(45),
        "taken_at": ago(45),
        "status_at": ago(16),
    }
    task = make_task(status=TaskStatus.VERIFYING, **told)
    UpgradeTask.objects.update(progress_at=ago(60), progress_seen_at=ago(60))
    said = {"firmware_reported_at": ago(50), "firmware_seen_at": ago(20)}
    Device.objects.update(**said, last_seen_at=timezone.now())
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


@pytest.mark.parametrize("last", ["attempt", "rollout"])
def test_after_a_restart_in_the_middle_the_last_attempt_too_may_prove_itself(last: str) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, retries=9 if last == "attempt" else 0)
    if last == "rollout":
        rollouts.cancel(task.rollout, timezone.now())
    fail(task, RESTARTED)
    assert task.status == TaskStatus.VERIFYING
    Device.objects.update(firmware_seen_at=timezone.now())
    UpgradeTask.objects.update(status_at=ago(16), progress_seen_at=ago(16))
    enforce(task)
    assert (task.status, task.result) == (TaskStatus.TIMEOUT, RESTARTED)


def test_a_dock_that_says_late_that_it_restarted_gets_its_time_to_report() -> None:
    task = vanished()
    UpgradeTask.objects.update(status_at=ago(14))
    fail(task, RESTARTED)
    UpgradeTask.objects.update(status_at=ago(16))
    enforce(task)
    assert task.status == TaskStatus.VERIFYING


# A version that nobody can read


def test_a_device_whose_version_cannot_be_read_any_more_gets_no_command() -> None:
    task = make_task()
    tell_version(task, "10.01.3205-eng")
    assert not is_sent(task)
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["version_unknown"]
    tell_version(task, OLD)
    assert is_sent(task)


# What was known before the command


def test_what_a_dock_said_before_a_command_that_it_may_not_have_heard_is_forgotten() -> None:
    sent_at = timezone.now() - dt.timedelta(seconds=40)
    dock = make_dock(last_seen_at=sent_at - dt.timedelta(seconds=1), online_since=ago(60))
    task = make_task(dock, status=TaskStatus.SENT, replied_at=None, sent_at=sent_at)
    enforce(task)
    say(task, "osd", envelope({"job_number": 5}))
    Device.objects.update(online_since=ago(0.51))
    assert not is_sent(task)
    say(task, "osd", envelope({"mode_code": 0}))
    assert is_sent(task)


# Called off after the command


def test_what_is_called_off_after_its_command_went_out_needs_somebody() -> None:
    rollout = make_rollout()
    unanswered: dict[str, Any] = {"replied_at": None, "sent_at": ago(1.5)}
    lost = make_task(gone(2), rollout=rollout, status=TaskStatus.SENT, **unanswered)
    refused = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS)
    never = make_task(rollout=rollout)
    enforce(lost)
    fail(refused, 312002)
    rollouts.cancel(rollout, timezone.now())
    for task in (lost, refused, never):
        task.refresh_from_db()
    assert (lost.status, refused.status, never.status) == ("timeout", "failed", "canceled")
    assert (
        lost.message
        == "the dock was not heard for 30 s after the command; not sent again: canceled"
    )
    assert refused.message.startswith("312002: ")
    assert [task.needs_attention for task in (lost, refused, never)] == [True, True, False]


def test_the_deadline_does_not_cancel_what_went_out() -> None:
    now = timezone.now()
    rollout = make_rollout(deadline_at=now + dt.timedelta(minutes=30))
    task = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS)
    fail(task, 312002)
    course.expire(now + dt.timedelta(minutes=31))
    task.refresh_from_db()
    assert (task.status, task.needs_attention) == (TaskStatus.FAILED, True)


def test_a_withdrawn_package_does_not_cancel_what_went_out() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, 312002)
    changes.withdraw(FirmwarePackage.objects.get(), timezone.now())
    task.refresh_from_db()
    assert task.status == TaskStatus.FAILED
    assert task.message.endswith("was withdrawn")


def test_how_an_earlier_attempt_failed_says_nothing_about_the_last() -> None:
    """Nobody knows whether the dock took it: it may be fetching the package."""
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, 312002)
    assert is_sent(task)
    task.refresh_from_db()
    assert (task.result, task.message) == (None, "")
    UpgradeTask.objects.update(sent_at=ago(1))
    Device.objects.update(last_seen_at=ago(1.1))
    enforce(task)
    rollouts.cancel(task.rollout, timezone.now())
    task.refresh_from_db()
    assert (task.status, task.result) == (TaskStatus.TIMEOUT, None)


def test_calling_off_asks_as_often_for_many_as_for_few() -> None:
    def cost(docks: int) -> int:
        for number in range(docks):
            make_task(attempt=1, sent_at=ago(60), message=f"dock {number} fell silent")
        waiting = UpgradeTask.objects.filter(status=TaskStatus.PENDING)
        with CaptureQueriesContext(connection) as found:
            rollouts.cancel_tasks(list(waiting.values_list("pk", flat=True)), timezone.now())
        return len(found)

    assert cost(2) == cost(8)


def test_facts_are_not_forgotten_where_the_reply_came_this_very_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task(make_dock(last_seen_at=ago(1.1)), status=TaskStatus.SENT, replied_at=None)
    found = limits._unanswered

    def answer(read: UpgradeTask, heard: Heard) -> limits.Verdict | None:
        UpgradeTask.objects.update(replied_at=timezone.now())
        Device.objects.update(mode_code=3)
        return found(read, heard)

    monkeypatch.setattr(limits, "_unanswered", answer)
    enforce(task)
    assert (task.status, Device.objects.get().mode_code) == (TaskStatus.SENT, 3)


def test_a_broker_that_is_away_does_not_wipe_how_the_last_attempt_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def publish(messages: Any) -> list[Outcome]:
        raise BrokerUnavailable("away")

    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, 312002)
    monkeypatch.setattr(publisher, "publish", publish)
    is_sent(task)
    rollouts.cancel(task.rollout, timezone.now())
    task.refresh_from_db()
    assert (task.status, task.result) == (TaskStatus.FAILED, 312002)
    assert "not sent again" in task.message


def test_a_dock_that_accepts_late_while_the_next_command_cannot_go_out_gets_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    first = task.tid
    enforce(task)
    assert (task.status, task.unanswered) == (TaskStatus.PENDING, 1)

    def publish(messages: Any) -> list[Outcome]:
        accept(task, first)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(publisher, "publish", publish)
    is_sent(task)
    task.refresh_from_db()
    assert (task.status, task.replied_at is not None) == (TaskStatus.SENT, True)
    assert task.events.latest("pk").text == "the command was not sent: away"
    assert not is_sent(task)


def test_a_worker_whose_command_did_not_go_out_leaves_the_one_of_another_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stood still so long that the limits gave its command up, and another worker took the task."""
    task = make_task()

    def publish(messages: Any) -> list[Outcome]:
        monkeypatch.setattr(publisher, "publish", lambda sent: [Outcome.CONFIRMED] * len(sent))
        UpgradeTask.objects.update(sent_at=ago(1))
        Device.objects.update(last_seen_at=timezone.now())
        enforce(task)
        assert is_sent(task)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(publisher, "publish", publish)
    is_sent(task)
    task.refresh_from_db()
    assert (task.status, task.attempt) == (TaskStatus.SENT, 2)


# "Already upgrading"


def note_command(task: UpgradeTask, tid: str) -> None:
    kind = TaskEvent.Kind.COMMAND
    TaskEvent.objects.create(task=task, at=timezone.now(), kind=kind, tid=tid)


@pytest.mark.parametrize("failed_from", [None, TaskStatus.SENT, TaskStatus.IN_PROGRESS])
def test_already_upgrading_means_the_last_command_only_if_nobody_answered_that(
    failed_from: TaskStatus | None,
) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=3, retries=1)
    for tid in ("1", "2"):
        note_command(task, tid)
    if failed_from:
        moved = {"from_status": failed_from, "to_status": TaskStatus.PENDING, "result": 312002}
        TaskEvent.objects.create(task=task, at=timezone.now(), kind="status", **moved)
    note_command(task, task.tid)
    answer = {"bid": task.bid, "tid": task.tid}
    say(task, "services_reply", envelope({"result": 312014}, "ota_create", **answer))
    expected = (TaskStatus.PENDING, False) if failed_from else (TaskStatus.SENT, True)
    assert (task.status, task.replied_at is not None) == expected


# Given up, and taken all the same


def given_up() -> UpgradeTask:
    """The dock was heard and answered neither of two commands."""
    sent: dict[str, Any] = {"attempt": 2, "unanswered": 1, "sent_at": ago(1), "replied_at": None}
    task = make_task(status=TaskStatus.SENT, **sent)
    for tid in ("1", task.tid):
        note_command(task, tid)
    Device.objects.update(last_seen_at=timezone.now())
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT
    return task


def take(task: UpgradeTask, at: dt.datetime | None = None, result: int = 0, said: str = "") -> None:
    data: dict[str, Any] = {"result": result} | ({"output": {"status": said}} if said else {})
    ids = {"bid": task.bid, "tid": task.tid, "timestamp": stamp(at or timezone.now())}
    say(task, "services_reply", envelope(data, "ota_create", **ids))


def end(task: UpgradeTask, at: dt.datetime) -> None:
    data = progress("failed", 60, "upgrade_firmware", 312002)
    say(task, "events", envelope(data, "ota_progress", bid=task.bid, timestamp=stamp(at)))


@pytest.mark.parametrize(("result", "said"), [(0, ""), (0, "sent"), (0, "ok"), (312014, "")])
def test_a_dock_that_says_late_that_it_took_a_command_we_had_given_up_gets_no_other(
    result: int, said: str
) -> None:
    task = given_up()
    take(task, result=result, said=said)
    (again,) = rollouts.retry(task.rollout, timezone.now())
    assert not is_sent(again)
    again.refresh_from_db()
    assert [reason["code"] for reason in again.waits_for] == ["foreign_upgrade"]
    end(task, timezone.now())
    assert is_sent(again)


def test_a_refusal_of_a_command_that_was_given_up_blocks_nothing() -> None:
    task = given_up()
    take(task, result=312015)
    (again,) = rollouts.retry(task.rollout, timezone.now())
    assert is_sent(again)


def test_a_late_reply_to_an_attempt_that_is_known_to_have_failed_blocks_nothing() -> None:
    failed_at = ago(3)
    task = make_task(status=TaskStatus.FAILED, finished_at=failed_at, progress_at=failed_at)
    take(task, at=ago(4))
    assert not ForeignUpgrade.objects.exists()


def test_what_failed_before_a_command_that_was_given_up_does_not_free_the_dock_that_took_it() -> (
    None
):
    task = given_up()
    take(task, at=ago(0.5))
    end(task, ago(2))
    assert ForeignUpgrade.objects.filter(finished_at=None).exists()
    end(task, timezone.now())
    assert not ForeignUpgrade.objects.filter(finished_at=None).exists()


def test_a_dock_that_took_a_command_we_had_given_up_is_free_once_it_ends_with_a_slow_clock() -> (
    None
):
    task = given_up()
    take(task)
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    started = envelope(data, "update_topo", timestamp=stamp(ago(60)))
    pipeline.process([received(f"sys/product/{task.gateway.sn}/status", started)])
    end(task, ago(59))
    assert not ForeignUpgrade.objects.filter(finished_at=None).exists()
