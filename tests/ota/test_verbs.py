"""What operators do to a rollout: in right and wrong states, pressed twice, and by two people at once."""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import ProtectedError
from django.utils import timezone

from fleet.models import Device
from ota import rollouts, steadiness
from ota.models import Rollout, RolloutEvent, UpgradeTask
from ota.moments import moment
from ota.rollouts import InvalidPolicy, NotPossible, Options, verbs
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_failed,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
    make_wave,
)

pytestmark = pytest.mark.django_db

S, R, Kind = TaskStatus, Rollout.Status, RolloutEvent.Kind
NOW = dt.datetime(2026, 5, 5, 12, tzinfo=dt.UTC)


def kinds(rollout: Rollout) -> list[str]:
    return [event.kind for event in rollout.events.all()]


def status(row: Rollout | UpgradeTask) -> str:
    row.refresh_from_db()
    return row.status


@pytest.fixture
def olga() -> User:
    return User.objects.create_user("olga")


# Twice


def test_each_verb_does_nothing_the_second_time(olga: User) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    assert [rollouts.pause(rollout, NOW, olga) for _ in range(2)] == [True, False]
    assert [rollouts.resume(rollout, NOW, olga) for _ in range(2)] == [True, False]
    assert [rollouts.cancel(rollout, NOW, olga) for _ in range(2)] == [1, 0]
    assert kinds(rollout) == [Kind.PAUSED, Kind.RESUMED, Kind.CANCELED]
    assert {event.actor for event in rollout.events.all()} == {olga}


def test_what_was_dismissed_twice_is_recorded_once() -> None:
    task = make_failed()
    assert [rollouts.dismiss(task.rollout, NOW) for _ in range(2)] == [1, 0]
    assert kinds(task.rollout) == [Kind.DISMISSED]
    assert not UpgradeTask.objects.needing_attention().exists()


def test_only_what_was_chosen_is_dismissed() -> None:
    rollout = make_rollout()
    chosen, other = make_failed(rollout), make_failed(rollout)
    rollouts.dismiss(rollout, NOW, pks=[chosen.pk])
    assert list(UpgradeTask.objects.needing_attention()) == [other]


def test_the_last_wave_is_followed_by_none() -> None:
    rollout = make_rollout()
    make_wave(rollout, 2, opened_at=None)
    assert str(rollouts.open_next_wave(rollout, NOW)) == "wave 2"
    assert rollouts.open_next_wave(rollout, NOW) is None


# Wrong states


@pytest.mark.parametrize("state", [R.PAUSED, R.NEEDS_APPROVAL, R.FINISHED, R.CANCELED])
def test_waves_open_only_while_a_rollout_runs(state: str) -> None:
    rollout = make_rollout(status=state)
    make_wave(rollout, 2, opened_at=None)
    with pytest.raises(NotPossible, match="not running"):
        rollouts.open_next_wave(rollout, NOW)


@pytest.mark.parametrize("state", [R.NEEDS_APPROVAL, R.FINISHED, R.CANCELED, R.PAUSED])
def test_only_what_runs_is_paused(state: str) -> None:
    rollout = make_rollout(status=state)
    assert not rollouts.pause(rollout, NOW)
    assert status(rollout) == state


@pytest.mark.parametrize("state", [R.NEEDS_APPROVAL, R.FINISHED, R.CANCELED, R.RUNNING])
def test_only_what_is_paused_is_resumed(state: str) -> None:
    rollout = make_rollout(status=state)
    assert not rollouts.resume(rollout, NOW)
    assert status(rollout) == state


@pytest.mark.parametrize("verb", [rollouts.approve, rollouts.deny])
@pytest.mark.parametrize("state", [R.RUNNING, R.PAUSED, R.FINISHED, R.CANCELED])
def test_only_what_waits_for_approval_is_decided_on(
    olga: User, state: str, verb: Callable[..., None]
) -> None:
    rollout = make_rollout(status=state)
    with pytest.raises(NotPossible, match="does not wait for approval"):
        verb(rollout, NOW, olga)
    assert status(rollout) == state


@pytest.mark.parametrize("state", [R.FINISHED, R.CANCELED])
def test_what_has_ended_is_not_changed(state: str) -> None:
    with pytest.raises(NotPossible, match="has ended"):
        rollouts.change(make_rollout(status=state), {"limit_in_flight": 3}, NOW)


def test_nothing_of_a_canceled_rollout_is_retried() -> None:
    task = make_failed(make_rollout(status=R.CANCELED))
    with pytest.raises(NotPossible, match="was canceled"):
        rollouts.retry(task.rollout, NOW)


# What was looked at


def test_what_changed_since_it_was_seen_is_neither_approved_nor_resumed(olga: User) -> None:
    waiting, paused = make_rollout(status=R.NEEDS_APPROVAL), make_rollout(status=R.PAUSED)
    with pytest.raises(NotPossible, match="has changed since it was looked at"):
        rollouts.approve(waiting, NOW, olga, seen="another")
    with pytest.raises(NotPossible, match="has changed since it was looked at"):
        rollouts.resume(paused, NOW, olga, seen="another")
    assert (status(waiting), status(paused)) == (R.NEEDS_APPROVAL, R.PAUSED)
    rollouts.approve(waiting, NOW, olga, seen=waiting.digest)
    assert rollouts.resume(paused, NOW, olga, seen=paused.digest)


def test_a_digest_knows_all_of_the_policy_and_nothing_of_the_name() -> None:
    digests = {Rollout(**{name: "other"}).digest for name in rollouts.FIELDS}
    usual = Rollout()
    assert len(digests | {usual.digest}) == len(rollouts.FIELDS) + 1
    assert Rollout(name="Autumn").digest == usual.digest


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_was_set_asks_for_no_other_look(olga: User, hours: int) -> None:
    waiting, paused = make_rollout(status=R.NEEDS_APPROVAL), make_rollout(status=R.PAUSED)
    seen = {rollout.pk: rollout.digest for rollout in Rollout.objects.all()}
    step = dt.timedelta(hours=hours)
    steadiness.move(step, timezone.now() + step)
    rollouts.approve(waiting, NOW, olga, seen=seen[waiting.pk])
    assert rollouts.resume(paused, NOW, olga, seen=seen[paused.pk])


def test_a_second_pause_for_the_same_reason_is_another_one(olga: User) -> None:
    rollout = make_rollout()
    rollouts.pause(rollout, NOW, olga)
    rollout.refresh_from_db()
    seen = rollout.digest
    rollouts.resume(rollout, NOW, olga)
    rollouts.pause(rollout, NOW, olga)
    with pytest.raises(NotPossible, match="has changed since it was looked at"):
        rollouts.resume(rollout, NOW, olga, seen=seen)


# Approval


def test_an_author_does_not_approve(olga: User) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL, created_by=olga)
    with pytest.raises(NotPossible, match="else than the author"):
        rollouts.approve(rollout, NOW, olga)


def test_an_approved_rollout_begins_with_its_first_wave(olga: User) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    rollout.wave_set.update(opened_at=None)
    rollouts.approve(rollout, NOW, olga, "looks right")
    assert status(rollout) == R.RUNNING
    assert (rollout.decided_by, rollout.remark) == (olga, "looks right")
    assert rollout.wave_set.get().opened_at == NOW
    with pytest.raises(NotPossible):
        rollouts.deny(rollout, NOW, olga)


def test_a_tick_right_after_the_approval_does_not_make_it_open_the_second_wave(
    olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    rollout.wave_set.update(opened_at=None)
    second = make_wave(rollout, 2, opened_at=None)
    real = verbs._decide

    def decide(*what: Any) -> None:
        real(*what)
        rollouts.course.open_next(rollout, NOW, number=1)  # as a tick does

    monkeypatch.setattr(verbs, "_decide", decide)
    rollouts.approve(rollout, NOW, olga)
    assert rollout.wave_set.get(number=1).opened_at == NOW
    second.refresh_from_db()
    assert second.opened_at is None


def test_a_denied_rollout_cancels_its_tasks_with_that_reason(olga: User) -> None:
    task = make_task(rollout=make_rollout(status=R.NEEDS_APPROVAL))
    rollouts.deny(task.rollout, NOW, olga, "wrong week")
    assert status(task) == S.CANCELED
    assert "denied" in task.message
    assert status(task.rollout) == R.CANCELED


# Retry


def test_a_retry_reopens_a_finished_rollout_with_a_new_task(olga: User) -> None:
    old = make_failed(make_rollout(status=R.FINISHED, finished_at=NOW))
    (new,) = rollouts.retry(old.rollout, NOW, olga)
    assert (new.retry_of, new.wave, new.gateway) == (old, old.wave, old.gateway)
    assert [t.device for t in new.targets.all()] == [t.device for t in old.targets.all()]
    assert status(old.rollout) == R.RUNNING
    assert old.rollout.finished_at is None
    assert new.events.get().actor == olga


def test_a_retry_that_is_pressed_twice_makes_one_task() -> None:
    rollout = make_failed().rollout
    assert [len(rollouts.retry(rollout, NOW)) for _ in range(2)] == [1, 0]
    assert kinds(rollout) == [Kind.RETRIED]


def test_a_retry_plans_only_what_is_not_proven() -> None:
    dock = make_dock()
    task = make_failed(dock=dock, aircraft=make_aircraft(dock))
    task.targets.filter(device=dock).update(confirmed_at=NOW)
    Device.objects.filter(pk=dock.pk).update(firmware_version=NEW)
    (new,) = rollouts.retry(task.rollout, NOW)
    assert [target.device for target in new.targets.all()] == list(dock.aircraft.all())


def test_a_retry_plans_a_device_again_that_has_lost_what_it_had_proved() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_failed(dock=dock, aircraft=aircraft)
    task.targets.update(confirmed_at=NOW, reported_version=NEW)
    Device.objects.filter(pk=dock.pk).update(firmware_version=NEW)
    Device.objects.filter(pk=aircraft.pk).update(firmware_version=OLD)
    (new,) = rollouts.retry(task.rollout, NOW)
    assert [(one.device, one.from_version) for one in new.targets.all()] == [(aircraft, OLD)]


def test_what_has_all_that_it_should_is_settled_and_not_retried() -> None:
    """A task without targets would count as proven, whatever its devices report by then."""
    task = make_failed()
    task.targets.update(confirmed_at=NOW, reported_version=NEW)
    Device.objects.update(firmware_version=NEW)
    assert rollouts.retry(task.rollout, NOW) == []
    task.refresh_from_db()
    assert (UpgradeTask.objects.count(), task.resolved_at) == (1, NOW)
    assert "report what they should" in task.events.get(kind="note").text


def test_a_task_without_targets_is_never_proven() -> None:
    make_listening()
    task = make_task()
    task.targets.all().delete()
    issue.look_again(NOW)
    issue.issue([task.pk], NOW)
    task.refresh_from_db()
    assert task.status == S.PENDING


def test_a_dock_that_another_upgrade_has_taken_is_left_as_it_is() -> None:
    rollout = make_rollout()
    taken, free = make_failed(rollout), make_failed(rollout)
    make_task(taken.gateway)
    assert [task.retry_of for task in rollouts.retry(rollout, NOW)] == [free]
    assert list(UpgradeTask.objects.needing_attention()) == [taken]


def test_a_dock_that_is_taken_this_very_moment_is_left_as_it_is() -> None:
    task = make_failed()
    make_task(task.gateway)
    assert verbs._again(task, NOW, None) is None
    assert UpgradeTask.objects.open().count() == 1


def test_a_retry_after_the_deadline_lifts_it_and_says_so() -> None:
    task = make_failed(make_rollout(deadline_at=NOW - dt.timedelta(hours=1)))
    (new,) = rollouts.retry(task.rollout, NOW)
    rollouts.advance(NOW)
    assert status(new) == S.PENDING
    assert "deadline" in task.rollout.events.get().text


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verb", ["retry", "cancel", "pause", "open_next_wave"])
def test_what_two_people_press_at_once_happens_once(verb: str) -> None:
    rollout = make_failed().rollout
    make_task(rollout=rollout)
    make_wave(rollout, 2, opened_at=None)

    def press(_: int) -> None:
        try:
            getattr(rollouts, verb)(Rollout.objects.get(pk=rollout.pk), timezone.now())
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as people:
        list(people.map(press, range(4)))
    assert len(kinds(rollout)) == 1
    assert UpgradeTask.objects.count() == (3 if verb == "retry" else 2)


def test_a_rollout_with_which_somebody_goes_on_this_moment_is_not_closed() -> None:
    task = make_failed()
    finished = Rollout.objects.get()
    rollouts.retry(task.rollout, NOW)
    rollouts.course._close(finished, NOW)
    assert status(task.rollout) == R.RUNNING


# Changes


def test_a_change_tells_old_and_new_and_wakes_what_waits(olga: User) -> None:
    task = make_task(checked_at=NOW, is_ready=True, due_at=NOW + dt.timedelta(days=3))
    told = rollouts.change(task.rollout, {"limit_in_flight": 5}, NOW, olga)
    assert told == ["docks at a time: 20 -> 5"]
    event = task.rollout.events.get()
    assert (event.kind, event.actor, event.text) == (Kind.CHANGED, olga, told[0])
    task.refresh_from_db()
    assert (task.checked_at, task.is_ready) == (None, False)


def test_a_change_is_told_with_the_names_of_the_fields_and_times_of_this_installation() -> None:
    rollout = make_rollout(deadline_at=dt.datetime(2099, 6, 30, 3, 30, tzinfo=dt.UTC))
    wanted = {
        "deadline_at": dt.datetime(2099, 6, 30, 22, tzinfo=dt.UTC),
        "starts_at": dt.datetime(2099, 6, 29, 22, tzinfo=dt.UTC),
        "asks_between_waves": True,
        "windows": "daily 22:00-05:00",
        "limit_per_site": 1,
    }
    with timezone.override("Europe/Zurich"):
        assert rollouts.change(rollout, wanted, NOW) == [
            "deadline: 2099-06-30 05:30 CEST -> 2099-07-01 00:00 CEST",
            "start: at once -> 2099-06-30 00:00 CEST",
            "ask me: no -> yes",
            "hours: at any time -> daily 22:00-05:00",
            "docks of a site at a time: none -> 1",
        ]
        emptied = {"starts_at": None, "deadline_at": None, "windows": "", "limit_per_site": None}
        assert rollouts.change(rollout, emptied, NOW) == [
            "start: 2099-06-30 00:00 CEST -> at once",
            "deadline: 2099-07-01 00:00 CEST -> none",
            "hours: daily 22:00-05:00 -> at any time",
            "docks of a site at a time: 1 -> none",
        ]


def test_a_change_that_is_none_is_not_recorded() -> None:
    rollout = make_rollout()
    assert rollouts.change(rollout, {"limit_in_flight": 20}, NOW) == []
    assert not rollout.events.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"limit_in_flight": 0},
        {"windows": "never"},
        {"windows": "daily 01:00-01:10"},
        {"gate": 101},
        {"deadline_at": NOW},
        {"waves": "1, rest"},
        {"status": "finished"},
    ],
)
def test_a_change_to_what_cannot_be_is_refused_whole(fields: dict[str, Any]) -> None:
    rollout = make_rollout()
    with pytest.raises(InvalidPolicy):
        rollouts.change(rollout, {"max_failed": 7, **fields}, NOW)
    rollout.refresh_from_db()
    assert (rollout.max_failed, rollout.limit_in_flight) == (None, 20)


def test_a_lower_gate_lets_the_next_wave_open_at_once() -> None:
    rollout = make_rollout(gate_first=100)
    make_failed(rollout)
    make_failed(rollout, status=S.OK)
    wave = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, wave=wave)
    rollouts.advance(NOW)
    rollouts.change(rollout, {"gate_first": 50}, NOW)
    rollouts.resume(rollout, NOW)
    rollouts.advance(NOW)
    wave.refresh_from_db()
    assert wave.opened_at == NOW


@pytest.mark.parametrize("field", ["starts_at", "deadline_at"])
def test_a_start_or_a_deadline_that_nobody_can_mean_is_refused(field: str) -> None:
    rollout = make_rollout()
    for at in (NOW.replace(year=2127), dt.datetime.max.replace(tzinfo=dt.UTC)):
        with pytest.raises(InvalidPolicy, match="more than a hundred years away") as refused:
            rollouts.change(rollout, {field: at}, NOW)
        assert refused.value.field == field
        given: dict[str, Any] = {field: at}
        with pytest.raises(InvalidPolicy, match="more than a hundred years away"):
            rollouts.plan(Device.objects.all(), Options(**given), NOW)
    rollouts.change(rollout, {field: NOW.replace(year=2125)}, NOW)


def test_a_start_that_is_put_off_holds_back_what_was_about_to_go() -> None:
    make_listening()
    task, now = make_task(), timezone.now()
    issue.look_again(now)
    rollouts.change(task.rollout, {"starts_at": now + dt.timedelta(hours=1)}, now)
    assert issue.issue([task.pk], now) == 0
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["not_started"]


def test_who_opens_a_wave_before_the_start_starts_it_now(olga: User) -> None:
    make_listening()
    start, now = NOW.replace(year=2099), timezone.now()
    rollout = Rollout.objects.create(name="R", starts_at=start)
    make_wave(rollout, opened_at=None)
    task = make_task(rollout=rollout)
    issue.look_again(now)
    rollouts.open_next_wave(rollout, now, olga, number=1)
    issue.look_again(now)
    task.refresh_from_db()
    assert (task.is_ready, task.waits_for) == (True, [])
    assert Rollout.objects.get().starts_at == now
    lines = [(line.kind, line.actor, line.text) for line in rollout.events.all()]
    moved = (Kind.CHANGED, olga, f"start: {moment(start)} -> {moment(now)}")
    assert lines == [(Kind.WAVE_OPENED, olga, "wave 1"), moved]


def test_a_wave_that_is_not_the_next_one_moves_no_start() -> None:
    rollout = make_rollout(starts_at=NOW + dt.timedelta(days=30))
    make_wave(rollout, 2, opened_at=None)
    assert rollouts.open_next_wave(rollout, NOW, number=1) is None
    assert Rollout.objects.get().starts_at == NOW + dt.timedelta(days=30)
    assert not rollout.events.exists()


def test_a_start_that_is_over_is_kept_when_a_wave_is_opened() -> None:
    rollout = make_rollout(starts_at=NOW - dt.timedelta(days=3))
    make_wave(rollout, 2, opened_at=None)
    rollouts.open_next_wave(rollout, NOW)
    assert Rollout.objects.get().starts_at == NOW - dt.timedelta(days=3)
    assert kinds(rollout) == [Kind.WAVE_OPENED]


def test_what_an_open_wave_held_back_for_the_start_goes_with_the_next_one() -> None:
    make_listening()
    task, now = make_task(), timezone.now()
    make_wave(task.rollout, 2, opened_at=None)
    rollouts.change(task.rollout, {"starts_at": now + dt.timedelta(hours=1)}, now)
    issue.look_again(now)
    rollouts.open_next_wave(task.rollout, now)
    issue.look_again(now)
    task.refresh_from_db()
    assert task.is_ready


# What becomes of devices while they wait


def end(task: UpgradeTask) -> tuple[str, str]:
    make_listening()
    issue.look_again(timezone.now())
    return status(task), task.message


def test_a_device_with_a_history_is_not_deleted() -> None:
    task = make_task()
    with pytest.raises(ProtectedError):
        task.gateway.delete()
    assert status(task) == S.PENDING


def test_a_dock_that_left_its_organization_altogether_ends_its_task() -> None:
    task = make_task()
    Device.objects.update(organization=None, changed_at=timezone.now())
    ended, why = end(task)
    assert ended == S.CANCELED
    assert "not bound to one organization" in why


def test_an_aircraft_that_moved_to_another_organization_ends_its_task() -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock))
    dock.aircraft.update(organization=make_organization())
    ended, why = end(task)
    assert ended == S.CANCELED
    assert "not bound to one organization" in why


def test_an_aircraft_that_was_paired_to_another_dock_ends_its_task() -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock))
    dock.aircraft.update(gateway=make_dock(organization=dock.organization))
    ended, why = end(task)
    assert ended == S.CANCELED
    assert f"not behind dock {dock.sn} any more" in why


def test_of_two_rollouts_that_want_a_dock_the_first_has_it() -> None:
    make_package()
    dock, other = make_dock(), make_dock()
    rollouts.launch(Device.objects.filter(pk=dock.pk), Options(), NOW)
    _, second = rollouts.launch(Device.objects.all(), Options(), NOW)
    assert [task.gateway for task in second.tasks] == [other]
    assert [(e.device, e.reason.code) for e in second.excluded] == [(dock, "open_task")]
