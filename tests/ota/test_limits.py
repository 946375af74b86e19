"""Limits of time; the clock is moved, nobody waits."""

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device
from mqtt_bridge import pipeline, router
from mqtt_bridge.models import BridgeSession
from ota.models import ForeignUpgrade, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, limits, retries
from tests.make import envelope, make_dock, make_listening, make_task, received

pytestmark = pytest.mark.django_db


@pytest.fixture
def after() -> Callable[[float], None]:
    """Enforces the limits as they are so many seconds from now, while a bridge listens."""
    session = make_listening()

    def enforce(seconds: float) -> None:
        later = timezone.now() + dt.timedelta(seconds=seconds)
        BridgeSession.objects.filter(pk=session.pk).update(seen_at=later)
        limits.enforce(later)

    return enforce


def unanswered(**fields: Any) -> UpgradeTask:
    """Sent just now to a dock that has been heard since."""
    now = timezone.now()
    dock = fields.pop("dock", None) or make_dock(last_seen_at=now)
    values = {"replied_at": None, "sent_at": now - dt.timedelta(milliseconds=1)}
    return make_task(dock, status=TaskStatus.SENT, **values | fields)


def status(task: UpgradeTask) -> str:
    task.refresh_from_db()
    return task.status


def test_an_unanswered_command_waits_for_its_reply(after: Callable[[float], None]) -> None:
    task = unanswered()
    after(29)
    assert status(task) == TaskStatus.SENT


def test_a_command_to_a_dock_that_was_gone_waits_until_it_is_heard_again(
    after: Callable[[float], None],
) -> None:
    gone = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=40))
    task = unanswered(dock=gone, attempt=2)
    after(31)
    assert status(task) == TaskStatus.PENDING
    now = timezone.now()
    issue.look_again(now)
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["offline", "mode_unknown", "silent"]


def test_an_unanswered_command_goes_out_once_more(after: Callable[[float], None]) -> None:
    task = unanswered()
    after(31)
    assert status(task) == TaskStatus.PENDING
    assert task.events.get().text.startswith("no reply within 30 s")


@pytest.mark.parametrize("retries", [0, 1, 100])
def test_a_second_unanswered_command_ends_the_task(
    after: Callable[[float], None], retries: int
) -> None:
    task = unanswered(attempt=retries + 2, retries=retries, unanswered=1)
    after(31)
    assert status(task) == TaskStatus.TIMEOUT
    assert task.events.get().text == "no reply to 2 commands"


def test_a_command_that_a_dock_never_heard_is_none_that_it_did_not_answer(
    after: Callable[[float], None],
) -> None:
    gone = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=40))
    task = unanswered(dock=gone)
    after(31)
    UpgradeTask.objects.filter(pk=task.pk).update(
        status=TaskStatus.SENT, sent_at=timezone.now() - dt.timedelta(milliseconds=1), attempt=2
    )
    Device.objects.update(last_seen_at=timezone.now())
    after(32)
    assert status(task) == TaskStatus.PENDING
    assert task.unanswered == 1


def hear(dock: Device, seconds: float) -> None:
    """An osd that says the same as always, so many seconds from now."""
    at = timezone.now() + dt.timedelta(seconds=seconds)
    message = envelope({"mode_code": 0}, timestamp=int(at.timestamp() * 1000))
    pipeline.process([received(f"thing/product/{dock.sn}/osd", message, received_at=at)])


@pytest.mark.django_db(transaction=True)
def test_however_short_the_time_for_a_reply_a_dock_that_is_heard_does_not_pass_for_silent(
    settings: Settings, after: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another bridge noted it right before the command, and the next looks come as late as they may."""
    router.discover()
    monkeypatch.setattr(random, "uniform", lambda _, latest: latest)
    settings.REPLY_TIME = 5
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=1))
    hear(dock, -8)
    task = unanswered(dock=dock)
    for seconds in range(0, 16, 2):
        hear(dock, seconds)
        after(seconds + 1)
    assert (status(task), task.unanswered) == (TaskStatus.PENDING, 1)


def test_however_short_the_time_for_a_reply_a_dock_that_is_silent_is_waited_for(
    settings: Settings, after: Callable[[float], None]
) -> None:
    settings.REPLY_TIME = 5
    task = unanswered(dock=make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=1)))
    after(21)
    assert status(task) == TaskStatus.SENT
    after(23)
    assert (status(task), task.unanswered) == (TaskStatus.PENDING, 0)
    assert task.message == "the dock was not heard for 22 s after the command"


def test_each_unanswered_command_is_counted_until_a_failure_is_told(
    after: Callable[[float], None],
) -> None:
    task = unanswered()
    after(31)
    assert status(task) == TaskStatus.PENDING
    assert task.unanswered == 1
    again = retries.outcome(task, TaskStatus.FAILED, 312014, "busy", timezone.now())
    assert again.fields["unanswered"] == 0


def test_a_dock_that_upgrades_without_having_answered_is_followed(
    after: Callable[[float], None],
) -> None:
    task = unanswered(dock=make_dock(mode_code=3))
    after(31)
    assert status(task) == TaskStatus.IN_PROGRESS
    assert task.replied_at


def test_a_dock_that_somebody_else_upgrades_has_not_taken_our_command(
    after: Callable[[float], None],
) -> None:
    dock = make_dock(mode_code=3)
    task = unanswered(dock=dock)
    now = timezone.now()
    ForeignUpgrade.objects.create(gateway=dock, bid="theirs", first_seen_at=now, last_seen_at=now)
    after(31)
    task.refresh_from_db()
    assert (task.status, task.replied_at) == (TaskStatus.PENDING, None)


def test_while_nobody_listens_nothing_ends() -> None:
    task = unanswered()
    limits.enforce(timezone.now() + dt.timedelta(hours=5))
    assert status(task) == TaskStatus.SENT


def test_the_time_counts_only_since_somebody_listens(after: Callable[[float], None]) -> None:
    task = unanswered()
    heard = timezone.now() + dt.timedelta(minutes=10)
    BridgeSession.objects.update(connected_since=heard)
    after(10 * 60 + 29)
    assert status(task) == TaskStatus.SENT
    after(10 * 60 + 31)
    assert status(task) == TaskStatus.PENDING


def test_while_the_bridge_is_behind_nothing_ends_that_a_waiting_message_could_prove(
    after: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.VERIFYING, status_at=timezone.now())
    BridgeSession.objects.update(behind_since=timezone.now() + dt.timedelta(minutes=14))
    after(20 * 60)
    assert status(task) == TaskStatus.VERIFYING
    BridgeSession.objects.update(behind_since=None)
    after(20 * 60)
    assert status(task) == TaskStatus.TIMEOUT


def test_what_a_bridge_that_may_have_died_did_not_hear_ends_nothing(
    after: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.VERIFYING, status_at=timezone.now())
    at_limit = timezone.now() + dt.timedelta(minutes=15)
    BridgeSession.objects.update(seen_at=at_limit - dt.timedelta(seconds=5))
    limits.enforce(at_limit + dt.timedelta(seconds=5))
    assert status(task) == TaskStatus.VERIFYING
    after(15 * 60 + 1)
    assert status(task) == TaskStatus.TIMEOUT


def test_what_nobody_heard_between_a_bridge_that_died_and_its_successor_ends_nothing() -> None:
    task = make_task(status=TaskStatus.VERIFYING, status_at=timezone.now())
    second, at_limit = dt.timedelta(seconds=1), timezone.now() + dt.timedelta(minutes=15)
    make_listening(seen_at=at_limit - 5 * second)
    now = at_limit + 5 * second
    successor = make_listening(connected_since=at_limit, seen_at=now)
    limits.enforce(now)
    assert status(task) == TaskStatus.VERIFYING
    successor.seen_at = at_limit + 61 * second
    successor.save()
    limits.enforce(successor.seen_at)
    assert status(task) == TaskStatus.TIMEOUT


def test_of_bridges_that_share_a_fleet_the_one_seen_the_longest_ago_tells_until_when_it_was_heard(
    settings: Settings,
) -> None:
    now = timezone.now()
    make_listening(seen_at=now - dt.timedelta(seconds=1))
    make_listening(seen_at=now - dt.timedelta(seconds=9))
    heard = BridgeSession.objects.heard(now)
    assert heard
    assert heard.until == now - dt.timedelta(seconds=1)  # each hears all
    settings.MQTT_SHARED_GROUP = "fleet"
    heard = BridgeSession.objects.heard(now)
    assert heard
    assert heard.until == now - dt.timedelta(seconds=9)


def test_silence_of_a_dock_that_still_upgrades_is_normal(after: Callable[[float], None]) -> None:
    dock = make_dock(mode_code=3)
    task = make_task(dock, status=TaskStatus.IN_PROGRESS, progress_seen_at=timezone.now())
    Device.objects.update(last_seen_at=timezone.now() + dt.timedelta(minutes=21))
    after(21 * 60)
    assert status(task) == TaskStatus.IN_PROGRESS


def test_a_dock_that_is_silent_for_too_long_is_judged_by_its_versions(
    after: Callable[[float], None],
) -> None:
    dock = make_dock(mode_code=3)
    task = make_task(dock, status=TaskStatus.IN_PROGRESS, progress_seen_at=timezone.now())
    after(19 * 60)
    assert status(task) == TaskStatus.IN_PROGRESS
    after(21 * 60)
    assert status(task) == TaskStatus.VERIFYING


def test_a_dock_that_is_back_without_a_final_report_is_judged_by_its_versions(
    after: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, progress_seen_at=timezone.now())
    Device.objects.update(online_since=timezone.now() + dt.timedelta(seconds=30))
    after(35)
    assert status(task) == TaskStatus.IN_PROGRESS
    after(45)
    assert status(task) == TaskStatus.VERIFYING


def test_a_retry_is_not_judged_by_the_progress_of_the_attempt_that_failed(
    after: Callable[[float], None],
) -> None:
    now = timezone.now()
    dock = make_dock(online_since=now - dt.timedelta(minutes=10))
    sent = now - dt.timedelta(minutes=2)
    task = make_task(
        dock, status=TaskStatus.IN_PROGRESS, attempt=2, retries=1, sent_at=sent, replied_at=sent,
        progress_seen_at=now - dt.timedelta(minutes=30),
    )  # fmt: skip
    after(1)
    assert status(task) == TaskStatus.IN_PROGRESS


def test_a_paused_upgrade_is_not_silent(after: Callable[[float], None]) -> None:
    task = make_task(status=TaskStatus.PAUSED, progress_seen_at=timezone.now())
    after(40 * 60)
    assert status(task) == TaskStatus.PAUSED


@pytest.mark.parametrize("stage", [TaskStatus.SENT, TaskStatus.IN_PROGRESS, TaskStatus.PAUSED])
def test_every_upgrade_ends_at_the_hard_limit(
    stage: TaskStatus, after: Callable[[float], None]
) -> None:
    task = make_task(make_dock(mode_code=3), status=stage)
    after(91 * 60)
    assert status(task) == TaskStatus.TIMEOUT


def test_success_that_is_not_proven_in_time_is_a_failure_that_says_what_was_reported(
    after: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.VERIFYING, device_ok_at=timezone.now())
    now = timezone.now()
    Device.objects.update(firmware_reported_at=now, firmware_seen_at=now)
    after(14 * 60)
    assert status(task) == TaskStatus.VERIFYING
    after(16 * 60)
    assert status(task) == TaskStatus.FAILED
    assert "reports 10.01.1607, not 10.01.3205" in task.message


def test_silence_that_proves_nothing_is_a_timeout(after: Callable[[float], None]) -> None:
    task = make_task(status=TaskStatus.VERIFYING, retries=100)
    after(16 * 60)
    assert status(task) == TaskStatus.TIMEOUT
    assert "has not reported its version" in task.message


def test_an_upgrade_of_somebody_else_that_fell_silent_blocks_no_longer(
    after: Callable[[float], None],
) -> None:
    now = timezone.now()
    ForeignUpgrade.objects.create(gateway=make_dock(), first_seen_at=now, last_seen_at=now)
    after(19 * 60)
    assert ForeignUpgrade.objects.filter(finished_at=None).exists()
    after(21 * 60)
    assert not ForeignUpgrade.objects.filter(finished_at=None).exists()


@pytest.mark.parametrize("target", [TaskStatus.PENDING, TaskStatus.TIMEOUT])
def test_a_reply_that_comes_this_very_moment_keeps_the_task_as_it_is(target: TaskStatus) -> None:
    task = unanswered()
    verdict = limits.Verdict(target, "no reply", is_final=True)
    UpgradeTask.objects.update(replied_at=timezone.now())
    limits._carry_out(verdict, [task], timezone.now())
    assert status(task) == TaskStatus.SENT


def test_a_bridge_that_reconnects_again_and_again_does_not_stop_the_clock(
    after: Callable[[float], None],
) -> None:
    task = make_task(make_dock(mode_code=3), status=TaskStatus.IN_PROGRESS)
    later = timezone.now() + dt.timedelta(minutes=91)
    BridgeSession.objects.update(connected_since=later - dt.timedelta(minutes=2))
    after(91 * 60)
    assert status(task) == TaskStatus.TIMEOUT


def test_right_after_a_break_of_the_bridge_nothing_is_judged(
    after: Callable[[float], None],
) -> None:
    task = make_task(make_dock(mode_code=3), status=TaskStatus.IN_PROGRESS)
    later = timezone.now() + dt.timedelta(minutes=91)
    BridgeSession.objects.update(connected_since=later - dt.timedelta(seconds=30))
    after(91 * 60)
    assert status(task) == TaskStatus.IN_PROGRESS


# Several bridges that share the messages: what docks say waits for the one that is away.


@pytest.fixture
def shared(settings: Settings, after: Callable[[float], None]) -> Callable[[float], None]:
    """As ``after``, and the bridge that listens shares the messages with others."""
    settings.MQTT_SHARED_GROUP = "fleet"
    return after


def away(seconds: float, **fields: Any) -> BridgeSession:
    """A bridge that was last seen so many seconds ago."""
    return make_listening(seen_at=timezone.now() - dt.timedelta(seconds=seconds), **fields)


def test_while_one_of_several_bridges_is_away_nothing_ends(shared: Callable[[float], None]) -> None:
    task = unanswered()
    away(60)
    shared(31)
    assert status(task) == TaskStatus.SENT


def test_an_upgrade_whose_proof_may_wait_for_a_stopped_bridge_does_not_fail(
    shared: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.VERIFYING, device_ok_at=timezone.now())
    away(0, connected_since=None)
    shared(16 * 60)
    assert status(task) == TaskStatus.VERIFYING


def test_a_bridge_that_is_back_first_brings_in_what_waited_for_it(
    shared: Callable[[float], None],
) -> None:
    task = make_task(status=TaskStatus.VERIFYING, device_ok_at=timezone.now())
    later = timezone.now() + dt.timedelta(minutes=16)
    back = make_listening(seen_at=later, connected_since=later - dt.timedelta(seconds=1))
    shared(16 * 60)
    assert status(task) == TaskStatus.VERIFYING
    BridgeSession.objects.filter(pk=back.pk).update(connected_since=later - dt.timedelta(minutes=2))
    shared(16 * 60)
    assert status(task) == TaskStatus.FAILED


@pytest.mark.parametrize("is_removed", [True, False], ids=["removed", "forgotten by the broker"])
def test_a_bridge_that_is_gone_for_good_keeps_nobody_waiting(
    is_removed: bool, shared: Callable[[float], None]
) -> None:
    task = unanswered()
    gone = away(60 if is_removed else 8 * 24 * 3600)
    if is_removed:
        gone.delete()
    shared(31)
    assert status(task) == TaskStatus.PENDING


def test_bridges_that_each_hear_everything_do_not_wait_for_each_other(
    after: Callable[[float], None],
) -> None:
    task = unanswered()
    away(60)
    after(31)
    assert status(task) == TaskStatus.PENDING
