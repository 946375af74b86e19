"""Docks that vanished after their command are no docks that are away, and nobody takes them for success."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline
from mqtt_bridge.models import BridgeSession
from ota import notices, rollouts
from ota.models import FirmwarePackage, News, UpgradeTarget, UpgradeTask
from ota.rollouts import course
from ota.states import TaskStatus
from ota.upgrades import issue, limits
from tests.make import (
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_rollout,
    make_target,
    make_task,
    make_wave,
    progress,
    received,
)
from tests.ota.doubt import RESTARTED, ago, enforce, fail, gone, say, stamp, vanished

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("willing_broker")]


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
    here = {"presence": Device.Presence.ONLINE, "last_seen_at": timezone.now()}
    Device.objects.filter(pk=known.gateway_id).update(firmware_seen_at=timezone.now(), **here)
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


def test_a_dock_that_is_gone_when_its_time_is_over_is_not_tried_again_whatever_it_said_last() -> (
    None
):
    task = vanished(progress_seen_at=ago(40))
    Device.objects.update(firmware_seen_at=ago(39.9))
    enforce(task)
    assert (task.status, task.needs_attention) == (TaskStatus.TIMEOUT, True)


def test_a_dock_that_failed_in_the_middle_and_went_dark_is_none_that_is_away() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, status=TaskStatus.OK)
    task = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS)
    fail(task, 312013)
    Device.objects.filter(pk=task.gateway_id).update(presence="offline", last_seen_at=ago(5))
    issue.look_again(timezone.now())
    course.advance(timezone.now())
    second.refresh_from_db()
    assert second.opened_at is None


def test_a_bridge_that_is_behind_has_not_heard_a_dock_yet() -> None:
    task = make_task(gone(121), attempt=1, sent_at=ago(122), status_at=ago(121.5))
    BridgeSession.objects.update(connected_since=ago(1000), behind_since=ago(120))
    issue.look_again(timezone.now())
    task.refresh_from_db()
    assert task.status == TaskStatus.PENDING


def test_a_dock_that_may_have_vanished_is_looked_at_also_while_the_hours_are_closed() -> None:
    now = timezone.now()
    begin, end = now + dt.timedelta(hours=20), now + dt.timedelta(hours=23)
    rollout = make_rollout(windows=f"daily {begin:%H:%M}-{end:%H:%M}")
    task = make_task(gone(2), rollout=rollout, attempt=1, sent_at=ago(2), status_at=ago(1))
    issue.look_again(now)
    task.refresh_from_db()
    assert task.due_at
    assert task.due_at <= now + dt.timedelta(minutes=10)


def test_a_retry_by_hand_that_is_called_off_leaves_the_doubt_about_the_command_before_it() -> None:
    task = vanished()
    enforce(task)
    rollouts.retry(task.rollout, timezone.now())
    rollouts.cancel(task.rollout, timezone.now())
    assert UpgradeTask.objects.needing_attention().count() == 1


def test_an_upgrade_whose_dock_says_again_and_again_that_it_restarted_ends() -> None:
    task = vanished()
    UpgradeTask.objects.update(sent_at=ago(110), replied_at=ago(110))
    fail(task, RESTARTED)
    enforce(task)
    assert task.status == TaskStatus.TIMEOUT


def test_an_upgrade_that_ends_in_doubt_is_told() -> None:
    task = vanished(rollout=make_rollout(name="Night"))
    enforce(task)
    notices.tell(timezone.now())
    (news,) = News.objects.filter(task=task)
    assert news.title == f"{task.gateway} needs somebody to look at it"
    assert "fell silent" in news.text
