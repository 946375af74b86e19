"""After a command of which nobody knows what became: nothing is sent blindly, and nobody takes it for success."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, publisher, router
from mqtt_bridge.models import BridgeSession, Heard
from ota import rollouts
from ota.models import FirmwarePackage, TaskEvent, UpgradeTarget, UpgradeTask
from ota.packages import changes
from ota.rollouts import course
from ota.states import TaskStatus
from ota.upgrades import issue, limits
from tests.make import (
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_listening,
    make_rollout,
    make_target,
    make_task,
    make_wave,
    progress,
    received,
)

pytestmark = pytest.mark.django_db

RESTARTED = 312028


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    router.discover()
    make_listening()
    monkeypatch.setattr(publisher, "publish", lambda messages: [True] * len(messages))


def ago(minutes: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(minutes=minutes)


def gone(minutes: float) -> Device:
    """A dock that was last heard so long ago."""
    silent = Device.Presence.OFFLINE
    told: dict[str, Any] = {
        name: ago(24 * 60) for name in ("firmware_seen_at", "compatible_seen_at")
    }
    return make_dock(last_seen_at=ago(minutes), presence=silent, mode_code=None, **told)


def vanished(**fields: Any) -> UpgradeTask:
    """The dock took the command and was never heard again; its time for a proof is over."""
    told: dict[str, Any] = {"status_at": ago(16), "sent_at": ago(45), "replied_at": ago(45)}
    return make_task(gone(40), status=TaskStatus.VERIFYING, **told, **fields)


def say(task: UpgradeTask, kind: str, message: dict[str, Any]) -> None:
    pipeline.process([received(f"thing/product/{task.gateway.sn}/{kind}", message)])
    task.refresh_from_db()


def fail(task: UpgradeTask, result: int) -> None:
    data = progress("failed", 60, "upgrade_firmware", result)
    say(task, "events", envelope(data, "ota_progress", bid=task.bid))


def tell_version(task: UpgradeTask, text: str) -> None:
    say(task, "state", envelope({"firmware_version": text}))


def tell_topology(task: UpgradeTask) -> None:
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    topic = f"sys/product/{task.gateway.sn}/status"
    pipeline.process([received(topic, envelope(data, "update_topo"))])


def stamp(at: dt.datetime) -> int:
    return int(at.timestamp() * 1000)


def enforce(task: UpgradeTask) -> None:
    limits.enforce(timezone.now())
    task.refresh_from_db()


def is_sent(task: UpgradeTask) -> bool:
    """Whether the command goes out, once nothing but the pause after a failure keeps it back."""
    UpgradeTask.objects.update(not_before=None)
    Device.objects.update(last_seen_at=timezone.now())
    return issue.issue([task.pk], timezone.now()) == 1


# A dock that vanished


def test_docks_that_vanished_after_their_command_do_not_let_the_next_wave_open() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None, gate=95)
    make_task(rollout=rollout, status=TaskStatus.OK)
    lost = [vanished(rollout=rollout) for _ in range(4)]
    for _ in range(2):
        limits.enforce(timezone.now())
        issue.look_again(timezone.now())
        course.advance(timezone.now())
    second.refresh_from_db()
    assert second.opened_at is None
    for task in lost:
        task.refresh_from_db()
    assert [task.needs_attention for task in lost] == [True] * 4


def test_a_dock_that_went_while_its_command_was_under_way_holds_the_next_wave() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, status=TaskStatus.OK)
    unanswered: dict[str, Any] = {"replied_at": None, "sent_at": ago(1.5)}
    make_task(gone(1.6), rollout=rollout, status=TaskStatus.SENT, **unanswered)
    limits.enforce(timezone.now())
    issue.look_again(timezone.now())
    course.advance(timezone.now())
    second.refresh_from_db()
    assert second.opened_at is None


def test_a_dock_that_never_got_a_command_and_is_away_does_not_hold_it() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, status=TaskStatus.OK)
    make_task(gone(10), rollout=rollout)
    issue.look_again(timezone.now())
    course.advance(timezone.now())
    second.refresh_from_db()
    assert second.opened_at


@pytest.mark.parametrize("tried", [False, True])
def test_a_dock_that_stays_away_after_a_command_needs_somebody_in_the_end(*, tried: bool) -> None:
    """The second time somebody has retried it already, and it is as far away as before."""
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, status=TaskStatus.OK)
    lost: dict[str, Any] = {"attempt": 1, "sent_at": ago(95), "status_at": ago(94)}
    if tried:
        first = make_task(gone(200), rollout=rollout, status=TaskStatus.TIMEOUT)
        lost = {"retry_of": first, "status_at": ago(94)}
        dock = first.gateway
    else:
        dock = gone(96)
    task = make_task(dock, rollout=rollout, **lost)
    BridgeSession.objects.update(connected_since=ago(92))
    for _ in range(2):
        issue.look_again(timezone.now())
        course.advance(timezone.now())
    task.refresh_from_db()
    second.refresh_from_db()
    assert (task.status, task.needs_attention, second.opened_at) == ("timeout", True, None)


def test_while_nobody_listened_no_dock_stayed_away() -> None:
    task = make_task(gone(200), attempt=1, sent_at=ago(195))
    BridgeSession.objects.update(connected_since=ago(80))
    issue.look_again(timezone.now())
    task.refresh_from_db()
    assert (task.status, task.is_absent) == (TaskStatus.PENDING, False)


def test_a_dock_that_refused_its_command_and_is_away_does_not_hold_the_next_wave() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, status=TaskStatus.OK)
    task = make_task(rollout=rollout, status=TaskStatus.SENT, replied_at=None)
    answer = {"bid": task.bid, "tid": task.tid}
    say(task, "services_reply", envelope({"result": 312015}, "ota_create", **answer))
    BridgeSession.objects.update(connected_since=ago(1000))
    Device.objects.filter(pk=task.gateway_id).update(last_seen_at=ago(900), presence="offline")
    issue.look_again(timezone.now())
    course.advance(timezone.now())
    task.refresh_from_db()
    second.refresh_from_db()
    assert (task.status, bool(second.opened_at)) == (TaskStatus.PENDING, True)


def test_a_retry_of_a_dock_that_vanished_does_not_make_it_one_that_is_away() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None, gate=95)
    make_task(rollout=rollout, status=TaskStatus.OK)
    make_task(gone(40), rollout=rollout, status=TaskStatus.TIMEOUT)
    rollouts.retry(rollout, timezone.now())
    for _ in range(2):
        issue.look_again(timezone.now())
        course.advance(timezone.now())
    second.refresh_from_db()
    assert second.opened_at is None


def test_silence_leads_to_another_attempt_only_if_the_old_version_was_reported_since() -> None:
    known, unknown = vanished(), vanished()
    Device.objects.filter(pk=known.gateway_id).update(firmware_seen_at=timezone.now())
    for task, status in [(known, TaskStatus.PENDING), (unknown, TaskStatus.TIMEOUT)]:
        enforce(task)
        assert task.status == status, task.message


def test_a_version_from_before_the_last_word_of_the_dock_says_nothing_about_what_came_after() -> (
    None
):
    task = vanished(progress_seen_at=ago(38))
    Device.objects.update(firmware_seen_at=ago(39))
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


@pytest.mark.parametrize("comes", ["again", "late"])
def test_a_version_that_was_said_before_the_last_word_decides_nothing_whenever_it_comes(
    comes: str,
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, sent_at=ago(40), replied_at=ago(40))
    Device.objects.update(firmware_seen_at=ago(1440), firmware_reported_at=ago(1440))
    old = envelope({"firmware_version": OLD}, timestamp=stamp(ago(39)))
    if comes == "again":
        say(task, "state", old)
    going = envelope(progress(), "ota_progress", bid=task.bid, timestamp=stamp(ago(20)))
    say(task, "events", going)
    topic = f"thing/product/{task.gateway.sn}/state"
    pipeline.process([received(topic, old, is_again=comes == "again")])
    long_ago = {"status_at": ago(16), "progress_seen_at": ago(16)}
    UpgradeTask.objects.update(status=TaskStatus.VERIFYING, **long_ago)
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


def test_for_consistency_the_device_has_to_have_said_since_that_it_still_asks_for_it() -> None:
    task = vanished()
    UpgradeTarget.objects.update(upgrade_type=UpgradeTarget.Type.CONSISTENCY)
    Device.objects.update(firmware_seen_at=timezone.now())
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


def test_an_aircraft_that_sleeps_before_it_has_reported_is_not_upgraded_once_more() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock, presence="off", firmware_seen_at=ago(24 * 60))
    task = make_task(dock, status=TaskStatus.VERIFYING, status_at=ago(16), sent_at=ago(45))
    task.targets.all().delete()
    make_target(task, aircraft, FirmwarePackage.objects.get())
    enforce(task)
    assert (task.status, task.needs_attention) == (TaskStatus.TIMEOUT, True)


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


# "Already upgrading"


@pytest.mark.parametrize("lines", [[], ["reply"], ["progress"]])
def test_already_upgrading_means_the_last_command_only_if_nobody_answered_that(
    lines: list[str],
) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=3, retries=1)
    command = TaskEvent.Kind.COMMAND
    for kind, tid in [(command, "1"), (command, "2"), *((kind, "") for kind in lines)]:
        TaskEvent.objects.create(task=task, at=timezone.now(), kind=kind, tid=tid)
    TaskEvent.objects.create(task=task, at=timezone.now(), kind=command, tid=task.tid)
    answer = {"bid": task.bid, "tid": task.tid}
    say(task, "services_reply", envelope({"result": 312014}, "ota_create", **answer))
    expected = (TaskStatus.PENDING, False) if lines else (TaskStatus.SENT, True)
    assert (task.status, task.replied_at is not None) == expected
