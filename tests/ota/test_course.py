"""How a rollout goes on by itself: waves, gates, stops, deadlines."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from ota import rollouts
from ota.models import Rollout, RolloutEvent, UpgradeTask, Wave
from ota.rollouts import course
from ota.states import RolloutStatus, TaskStatus
from tests.make import make_dock, make_rollout, make_task, make_wave

pytestmark = pytest.mark.django_db

S = TaskStatus
Kind = RolloutEvent.Kind


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


def make_waves(*statuses: list[TaskStatus], **policy: Any) -> tuple[Rollout, list[Wave]]:
    """A rollout whose waves have a task of each status; only the first is open."""
    rollout = make_rollout(**policy)
    waves = [rollout.wave_set.get()]
    waves += [make_wave(rollout, n, opened_at=None) for n in range(2, len(statuses) + 1)]
    for wave, wanted in zip(waves, statuses, strict=True):
        for status in wanted:
            add_task(wave, status)
    return rollout, waves


def add_task(wave: Wave, status: TaskStatus, **fields: Any) -> UpgradeTask:
    if status in {S.OK, S.FAILED, S.TIMEOUT, S.REJECTED, S.CANCELED}:
        fields |= {"finished_at": timezone.now() + dt.timedelta(seconds=1)}
    return make_task(make_dock(), rollout=wave.rollout, wave=wave, status=status, **fields)


def is_open(wave: Wave) -> bool:
    wave.refresh_from_db()
    return wave.opened_at is not None


def kinds(rollout: Rollout) -> list[str]:
    return [event.kind for event in rollout.events.all()]


def status(rollout: Rollout) -> str:
    rollout.refresh_from_db()
    return rollout.status


# Gates


def test_the_next_wave_opens_when_the_first_is_proven(now: dt.datetime) -> None:
    rollout, (_, second) = make_waves([S.OK], [S.PENDING])
    rollouts.advance(now)
    assert is_open(second)
    assert kinds(rollout) == [Kind.WAVE_OPENED]


@pytest.mark.parametrize("unfinished", [S.PENDING, S.SENT, S.IN_PROGRESS, S.PAUSED, S.VERIFYING])
def test_the_next_wave_waits_while_the_last_is_under_way(
    now: dt.datetime, unfinished: TaskStatus
) -> None:
    _, (_, second) = make_waves([S.OK, unfinished], [S.PENDING])
    rollouts.advance(now)
    assert not is_open(second)


def test_a_dock_that_is_away_does_not_hold_the_next_wave_back(now: dt.datetime) -> None:
    _, (first, second) = make_waves([S.OK], [S.PENDING])
    add_task(first, S.PENDING, is_absent=True)
    rollouts.advance(now)
    assert is_open(second)


def test_a_wave_of_which_nothing_is_finished_opens_nothing(now: dt.datetime) -> None:
    _, (first, second) = make_waves([], [S.PENDING])
    add_task(first, S.PENDING, is_absent=True)
    rollouts.advance(now)
    assert not is_open(second)


@pytest.mark.parametrize(("gate", "opens"), [(75, True), (76, False)])
def test_the_gate_is_the_share_proven_of_the_finished(
    now: dt.datetime, gate: int, opens: bool
) -> None:
    _, (first, second) = make_waves([S.OK, S.OK, S.OK, S.FAILED, S.CANCELED], [S.PENDING])
    Wave.objects.filter(pk=first.pk).update(gate=gate)
    rollouts.advance(now)
    assert is_open(second) == opens


@pytest.mark.parametrize("canceled", [1, 2])
def test_after_a_wave_that_was_canceled_whole_the_next_waits_for_a_click_and_says_so_once(
    canceled: int, now: dt.datetime
) -> None:
    rollout, (first, second) = make_waves([S.PENDING] * canceled, [S.PENDING])
    course.cancel_tasks(first.tasks.values_list("pk", flat=True), now)
    rollouts.advance(now)
    rollouts.advance(now + dt.timedelta(minutes=1))
    assert not is_open(second)
    (line,) = rollout.events.all()
    told = "wave 2 waits for a click: nothing of wave 1 was proven, because all of it was canceled"
    assert (line.kind, line.text) == (Kind.WAVE_WAITING, told)
    rollouts.open_next_wave(rollout, now)
    assert is_open(second)


def test_what_earlier_waves_proved_does_not_stand_in_for_a_wave_that_was_canceled_whole(
    now: dt.datetime,
) -> None:
    rollout, (_, _, third) = make_waves([S.OK], [S.CANCELED], [S.PENDING])
    rollouts.advance(now)
    rollouts.advance(now)
    assert not is_open(third)
    assert kinds(rollout) == [Kind.WAVE_OPENED, Kind.WAVE_WAITING]


def test_a_wave_that_nothing_is_in_opens_nothing(now: dt.datetime) -> None:
    rollout, (_, second) = make_waves([], [S.PENDING])
    rollouts.advance(now)
    assert not is_open(second)
    told = "wave 2 waits for a click: nothing of wave 1 was proven, because no upgrade is in it"
    assert [line.text for line in rollout.events.all()] == [told]


def test_where_nothing_is_left_to_send_nobody_is_asked_to_open_a_wave(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.PENDING], [S.PENDING], deadline_at=now)
    rollouts.advance(now)
    assert kinds(rollout) == [Kind.DEADLINE, Kind.FINISHED]


def test_waves_open_one_after_the_other(now: dt.datetime) -> None:
    _, (_, second, third) = make_waves([S.OK], [S.PENDING], [S.PENDING])
    rollouts.advance(now)
    rollouts.advance(now)
    assert is_open(second)
    assert not is_open(third)


def test_the_soak_time_passes_before_the_next_wave_opens(now: dt.datetime) -> None:
    _, (_, second) = make_waves([S.OK], [S.PENDING], soak_minutes=30)
    rollouts.advance(now)
    rollouts.advance(now + dt.timedelta(minutes=29))
    assert not is_open(second)
    rollouts.advance(now + dt.timedelta(minutes=30))
    assert is_open(second)


def test_a_failure_during_the_soak_time_starts_it_anew(now: dt.datetime) -> None:
    _, (first, second) = make_waves([S.OK], [S.PENDING], soak_minutes=30)
    rollouts.advance(now)
    late = add_task(first, S.FAILED)
    rollouts.advance(now + dt.timedelta(minutes=15))
    UpgradeTask.objects.filter(pk=late.pk).update(status=S.OK)
    rollouts.advance(now + dt.timedelta(minutes=31))
    assert not is_open(second)


def test_a_rollout_that_asks_waits_for_a_click_and_says_so_once(now: dt.datetime) -> None:
    rollout, (_, second) = make_waves([S.OK], [S.PENDING], asks_between_waves=True)
    rollouts.advance(now)
    rollouts.advance(now)
    assert not is_open(second)
    assert kinds(rollout) == [Kind.WAVE_WAITING]
    rollouts.open_next_wave(rollout, now)
    assert is_open(second)


def test_a_question_that_comes_after_the_gate_is_told_too(now: dt.datetime) -> None:
    rollout, (_, second) = make_waves([S.OK], [S.PENDING], soak_minutes=30)
    rollouts.advance(now)
    Rollout.objects.update(asks_between_waves=True)
    for minutes in (1, 31):
        rollouts.advance(now + dt.timedelta(minutes=minutes))
    assert not is_open(second)
    assert kinds(rollout) == [Kind.WAVE_WAITING]


def test_two_ticks_at_once_open_one_wave(now: dt.datetime) -> None:
    rollout, (_, second, third) = make_waves([S.OK], [S.PENDING], [S.PENDING])
    rollouts.advance(now)
    rollouts.advance(now)
    assert kinds(rollout).count(Kind.WAVE_OPENED) == 1
    assert is_open(second)
    assert not is_open(third)


def test_the_first_wave_waits_for_the_start(now: dt.datetime) -> None:
    rollout = make_rollout(starts_at=now + dt.timedelta(hours=1))
    rollout.wave_set.update(opened_at=None)
    make_task(rollout=rollout)
    rollouts.advance(now)
    assert not is_open(rollout.wave_set.get())
    rollouts.advance(now + dt.timedelta(hours=1))
    assert is_open(rollout.wave_set.get())


def test_a_wave_that_opens_spreads_its_starts(now: dt.datetime) -> None:
    _, (_, second) = make_waves([S.OK], [S.PENDING] * 5, jitter_seconds=600)
    rollouts.advance(now)
    starts = {task.not_before for task in second.tasks.all()}
    assert len(starts) == 5
    assert all(now <= at <= now + dt.timedelta(seconds=600) for at in starts if at)


# Stops


def test_a_rollout_with_too_many_failures_pauses_itself_and_says_whom_to_look_at(
    now: dt.datetime,
) -> None:
    rollout, (first,) = make_waves([S.FAILED, S.TIMEOUT, S.PENDING], max_failed=1)
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.PAUSED
    assert "2 upgrades failed; at most 1 may" in rollout.pause_reason
    failed = first.tasks.filter(status=S.FAILED).get()
    assert failed.gateway.sn in rollout.pause_reason
    assert kinds(rollout) == [Kind.STOPPED]


def test_as_many_failures_as_allowed_stop_nothing(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.FAILED, S.PENDING], max_failed=1)
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.RUNNING


@pytest.mark.parametrize(("proven", "pauses"), [(8, False), (7, True)])
def test_the_share_of_failures_counts_once_enough_have_finished(
    now: dt.datetime, proven: int, pauses: bool
) -> None:
    # 2 of 10 are 20 %, which may be; 2 of 9 are more.
    rollout, _ = make_waves(
        [S.OK] * proven + [S.FAILED] * 2 + [S.PENDING], max_failed_percent=20, failed_after=9
    )
    rollouts.advance(now)
    assert (status(rollout) == Rollout.Status.PAUSED) == pauses


def test_a_bad_wave_stops_a_rollout_that_is_good_as_a_whole(now: dt.datetime) -> None:
    rollout, _ = make_waves(
        [S.OK] * 20, [S.FAILED, S.FAILED, S.OK, S.PENDING], max_failed_percent=30, failed_after=3
    )
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.PAUSED
    assert "wave 2" in rollout.pause_reason


def test_before_enough_have_finished_no_share_counts(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.FAILED] * 2 + [S.PENDING], max_failed_percent=20, failed_after=3)
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.RUNNING


def test_what_failed_before_somebody_resumed_stops_nothing_again(now: dt.datetime) -> None:
    rollout, (first,) = make_waves([S.FAILED, S.PENDING], max_failed=0)
    rollouts.advance(now)
    later = now + dt.timedelta(minutes=1)
    assert rollouts.resume(rollout, later)
    rollouts.advance(later)
    assert status(rollout) == Rollout.Status.RUNNING
    add_task(first, S.FAILED)
    UpgradeTask.objects.filter(wave=first, status=S.FAILED).update(
        finished_at=later + dt.timedelta(seconds=1)
    )
    rollouts.advance(later)
    assert status(rollout) == Rollout.Status.PAUSED


def test_a_rollout_with_nothing_left_to_send_is_not_paused(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.FAILED], max_failed=0)
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.FINISHED


# Ends


def test_what_was_not_issued_by_the_deadline_is_canceled_with_that_reason(
    now: dt.datetime,
) -> None:
    rollout, (first, second) = make_waves(
        [S.SENT, S.PENDING], [S.PENDING], deadline_at=now + dt.timedelta(hours=1)
    )
    rollouts.advance(now)
    assert not UpgradeTask.objects.filter(status=S.CANCELED).exists()
    rollouts.advance(now + dt.timedelta(hours=1))
    canceled = UpgradeTask.objects.filter(status=S.CANCELED)
    assert canceled.count() == 2
    assert all("deadline" in task.message for task in canceled)
    assert first.tasks.filter(status=S.SENT).exists()
    assert not is_open(second)
    assert kinds(rollout) == [Kind.DEADLINE]


def test_a_deadline_that_is_moved_this_very_moment_cancels_nothing(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.PENDING], deadline_at=now)
    read_by_a_tick = Rollout.objects.get()
    Rollout.objects.update(deadline_at=now + dt.timedelta(days=1))
    course._expire(read_by_a_tick, now)
    assert rollout.tasks.get().status == S.PENDING
    assert kinds(rollout) == []


@pytest.mark.parametrize(
    "change", [{"asks_between_waves": True}, {"soak_minutes": 60}, {"status": RolloutStatus.PAUSED}]
)
def test_a_wave_does_not_open_by_a_policy_that_is_changed_this_very_moment(
    now: dt.datetime, change: dict[str, Any]
) -> None:
    _, (_, second) = make_waves([S.OK], [S.PENDING])
    read_by_a_tick = Rollout.objects.get()
    Rollout.objects.update(**change)
    course._open_by_itself(read_by_a_tick, 2, now)
    assert not is_open(second)
    Rollout.objects.update(**{name: getattr(read_by_a_tick, name) for name in change})
    course._open_by_itself(read_by_a_tick, 2, now)
    assert is_open(second)


@pytest.mark.parametrize("status_", [Rollout.Status.PAUSED, Rollout.Status.NEEDS_APPROVAL])
def test_the_deadline_holds_for_rollouts_that_do_not_run(
    now: dt.datetime, status_: RolloutStatus
) -> None:
    rollout, _ = make_waves([S.PENDING], deadline_at=now, status=status_)
    rollouts.advance(now)
    assert rollout.tasks.get().status == S.CANCELED
    assert status(rollout) == Rollout.Status.FINISHED


def test_a_rollout_ends_with_its_last_task(now: dt.datetime) -> None:
    rollout, _ = make_waves([S.OK, S.FAILED])
    rollouts.advance(now)
    assert status(rollout) == Rollout.Status.FINISHED
    assert kinds(rollout) == [Kind.FINISHED]


@pytest.mark.parametrize("size", [3, 30])
def test_a_tick_takes_as_many_queries_for_many_tasks_as_for_few(
    now: dt.datetime, size: int
) -> None:
    make_waves([S.OK] * size + [S.IN_PROGRESS], [S.PENDING] * size)
    make_waves([S.OK] * size + [S.IN_PROGRESS], [S.PENDING] * size)
    with CaptureQueriesContext(connection) as found:
        rollouts.advance(now)
    assert len(found) == 8
