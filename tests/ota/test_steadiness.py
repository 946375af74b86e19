"""A clock that jumps; the one that only counts up is moved by hand."""

import datetime as dt
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import time_machine
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge.models import BridgeSession
from ota import rollouts, steadiness, tasks
from ota.models import Clock, Rollout, UpgradeTask
from ota.states import TaskStatus
from tests.make import make_dock, make_failed, make_listening, make_rollout, make_task

pytestmark = pytest.mark.django_db

HOUR = 3600.0


class Machine:
    """Both clocks of a machine."""

    def __init__(self, wall: time_machine.Traveller) -> None:
        self.wall, self.counted = wall, 500.0

    def pass_time(self, seconds: float) -> None:
        self.wall.shift(seconds)
        self.counted += seconds
        BridgeSession.objects.update(seen_at=timezone.now())

    def jump(self, seconds: float) -> None:
        self.wall.shift(seconds)

    def is_steady(self) -> bool:
        return steadiness.is_steady(timezone.now())

    def tick(self) -> None:
        tasks.tick(timezone.now())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with time_machine.travel(dt.datetime(2026, 5, 5, 12, tzinfo=dt.UTC), tick=False) as wall:
        found = Machine(wall)
        monkeypatch.setattr(steadiness, "counted", lambda: found.counted)
        make_listening()
        assert found.is_steady()
        yield found


def status(task: UpgradeTask) -> str:
    task.refresh_from_db()
    return task.status


def test_time_that_passes_is_no_jump(machine: Machine) -> None:
    machine.pass_time(7 * HOUR)
    assert machine.is_steady()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 6, -6])
def test_a_clock_that_jumped_is_trusted_after_a_minute(machine: Machine, seconds: float) -> None:
    machine.jump(seconds)
    assert not machine.is_steady()
    machine.pass_time(59)
    assert not machine.is_steady()
    machine.pass_time(1)
    assert machine.is_steady()


def test_a_clock_that_jumps_again_has_to_be_steady_anew(machine: Machine) -> None:
    machine.jump(HOUR)
    assert not machine.is_steady()
    machine.pass_time(50)
    machine.jump(-HOUR)
    assert not machine.is_steady()
    machine.pass_time(50)
    assert not machine.is_steady()


def test_small_corrections_are_nothing_until_they_add_up(machine: Machine) -> None:
    machine.jump(4)
    assert machine.is_steady()
    machine.jump(4)
    assert not machine.is_steady()


@pytest.mark.parametrize("jump", [0, HOUR])
@pytest.mark.usefixtures("willing_broker")
def test_commands_that_were_queued_before_the_clock_jumped_do_not_go(
    machine: Machine, jump: float
) -> None:
    task = make_task(is_ready=True)
    machine.jump(jump)
    # Heard at this moment, so that only the clock is against it.
    Device.objects.update(last_seen_at=timezone.now())
    BridgeSession.objects.update(seen_at=timezone.now())
    tasks.issue([task.pk])
    assert status(task) == (TaskStatus.PENDING if jump else TaskStatus.SENT)


@pytest.mark.parametrize(
    ("task", "work"),
    [
        (tasks.tell, "ota.notices.tell"),
        (tasks.tell_standstill, "ota.rollouts.standstill.tell"),
        (tasks.mail, "ota.notices.send"),
        (tasks.deliver, "ota.notices.webhooks.deliver"),
        (tasks.forget_news, "ota.notices.forget"),
        (tasks.fold_history, "ota.upgrades.folding.fold"),
        (tasks.expire_uploads, "ota.uploads.expire"),
    ],
)
def test_what_removes_or_puts_off_waits_until_the_clock_is_steady(
    machine: Machine, task: Callable[[], None], work: str
) -> None:
    """What was deleted by a wrong time would not come back."""
    with patch(work, return_value=[]) as worked:
        machine.jump(8 * 24 * HOUR)
        task()
        assert not worked.called
        machine.pass_time(61)
        task()
        assert worked.called


def test_a_machine_that_was_started_again_is_another_clock(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadiness, "_machine", lambda: "after its start")
    machine.counted = 3
    assert machine.is_steady()
    assert Clock.objects.count() == 2


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_jump_changes_no_time_that_passed(machine: Machine, seconds: float) -> None:
    now = timezone.now()
    task = make_task(status=TaskStatus.IN_PROGRESS, progress_seen_at=now)
    machine.jump(seconds)
    machine.is_steady()
    task.refresh_from_db()
    task.gateway.refresh_from_db()
    moved = timezone.now()
    assert (task.sent_at, task.progress_seen_at) == (moved - dt.timedelta(seconds=60), moved)
    assert task.gateway.last_seen_at == moved


@pytest.mark.parametrize("stage", [TaskStatus.SENT, TaskStatus.IN_PROGRESS, TaskStatus.VERIFYING])
@pytest.mark.parametrize("seconds", [HOUR * 24, -HOUR])
def test_a_jump_ends_nothing_that_is_under_way(
    machine: Machine, seconds: float, stage: TaskStatus
) -> None:
    task = make_task(make_dock(mode_code=3), status=stage, progress_seen_at=timezone.now())
    machine.jump(seconds)
    machine.tick()
    machine.pass_time(61)
    machine.tick()
    assert status(task) == stage


def test_after_a_jump_limits_of_time_count_on(machine: Machine) -> None:
    task = make_task(status=TaskStatus.PAUSED, sent_at=timezone.now())
    machine.jump(-HOUR)
    machine.tick()
    machine.pass_time(91 * 60)
    machine.tick()
    assert status(task) == TaskStatus.TIMEOUT


def test_a_deadline_that_a_jump_passed_and_left_again_cancels_nothing(machine: Machine) -> None:
    rollout = make_rollout(deadline_at=timezone.now() + dt.timedelta(minutes=30))
    task = make_task(make_dock(mode_code=4), rollout=rollout)
    machine.jump(HOUR)
    machine.tick()
    machine.pass_time(30)
    machine.jump(-HOUR)
    machine.tick()
    machine.pass_time(61)
    machine.tick()
    assert status(task) == TaskStatus.PENDING
    assert Rollout.objects.get().status == Rollout.Status.RUNNING


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_while_the_clock_is_not_steady_nothing_is_issued(machine: Machine, seconds: float) -> None:
    task = make_task()
    machine.jump(seconds)
    assert tasks.tick(timezone.now()) == []
    tasks.issue([task.pk])
    assert status(task) == TaskStatus.PENDING


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_pause_lasts_as_long_as_it_should(machine: Machine, seconds: float) -> None:
    pause = timezone.now() + dt.timedelta(seconds=300)
    task = make_task(retries=1, not_before=pause)
    machine.tick()
    machine.jump(seconds)
    machine.tick()
    task.refresh_from_db()
    assert task.not_before == timezone.now() + dt.timedelta(seconds=300)
    machine.pass_time(301)
    Device.objects.update(last_seen_at=timezone.now())
    assert tasks.tick(timezone.now()) == [task.pk]


def test_a_jump_cuts_no_soak_time_short(machine: Machine) -> None:
    rollout = make_rollout()
    rollout.wave_set.update(met_at=timezone.now())
    machine.jump(HOUR)
    machine.is_steady()
    assert rollout.wave_set.get().met_at == timezone.now()


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_changes_nothing_about_which_failures_count(machine: Machine, hours: int) -> None:
    def ago(minutes: float) -> dt.datetime:
        return timezone.now() - dt.timedelta(minutes=minutes)

    rollout = make_rollout(judged_from=ago(20))
    make_failed(rollout, finished_at=ago(30))
    make_failed(rollout, finished_at=ago(10))
    for step in (hours, -hours):
        machine.jump(step * HOUR)
        assert not machine.is_steady()
        (standing,) = rollouts.standings([rollout.pk]).values()
        assert (standing.judged, standing.failed) == (1, 1)


def test_of_two_that_notice_a_jump_one_moves_the_times(machine: Machine) -> None:
    task = make_task(retries=1, not_before=timezone.now())
    old = Clock.objects.get()
    machine.jump(HOUR)
    step, now = dt.timedelta(seconds=HOUR), timezone.now()
    for _ in range(2):
        steadiness._follow(old, step, old.offset + HOUR, now)
    task.refresh_from_db()
    assert task.not_before == now


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_that_two_machines_make_moves_a_pause_once(machine: Machine, hours: int) -> None:
    began = timezone.now()
    task = make_task(retries=1, not_before=began, status_at=began)
    first = Clock.objects.get()
    second = Clock.objects.create(machine="another", offset=first.offset)
    machine.jump(hours * HOUR)
    step, now = dt.timedelta(hours=hours), timezone.now()
    for clock in (first, second):
        steadiness._follow(clock, step, clock.offset + hours * HOUR, now)
    task.refresh_from_db()
    assert task.not_before == began + step


def test_looking_at_a_steady_clock_takes_one_query(
    machine: Machine, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    with django_assert_num_queries(1):  # type: ignore[operator]
        machine.is_steady()
