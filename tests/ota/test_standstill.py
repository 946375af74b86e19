"""A rollout in which nothing happens for a day says what it waits for."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Site
from mqtt_bridge.models import BridgeSession
from ota import notices, rollouts
from ota.models import News, Preference, Rollout, RolloutEvent
from ota.models.notices import Kind
from ota.notices.wishes import People
from ota.rollouts import course
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import (
    make_dock,
    make_listening,
    make_organization,
    make_rollout,
    make_task,
    make_wave,
)
from tests.people import make_person

pytestmark = pytest.mark.django_db

OFFLINE = [{"code": "offline", "text": "the dock is offline"}]
HOURS = [{"code": "hours", "text": "closed until 22:00"}]


@pytest.fixture
def tomorrow() -> dt.datetime:
    return timezone.now() + dt.timedelta(days=1, minutes=1)


def told(rollout: Rollout) -> list[str]:
    events = rollout.events.filter(kind=RolloutEvent.Kind.STANDSTILL)
    return list(events.order_by("pk").values_list("text", flat=True))


def test_what_upgrades_wait_for_is_told_with_the_docks_once_a_day(tomorrow: dt.datetime) -> None:
    rollout = make_rollout()
    tasks = [make_task(rollout=rollout, waits_for=OFFLINE) for _ in range(2)]
    for hours in (0, 1, 23, 24):
        rollouts.standstill.tell(tomorrow + dt.timedelta(hours=hours))
    docks = ", ".join(task.gateway.sn for task in tasks)
    assert told(rollout) == [f"2 upgrades wait: 2 offline. Look at {docks}."] * 2


def test_before_a_day_is_over_nothing_is_told(tomorrow: dt.datetime) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, waits_for=OFFLINE)
    rollouts.standstill.tell(tomorrow - dt.timedelta(minutes=5))
    assert not told(rollout)


@pytest.mark.parametrize("status", [TaskStatus.SENT, TaskStatus.VERIFYING, TaskStatus.PAUSED])
def test_a_rollout_with_something_under_way_does_not_stand_still(
    tomorrow: dt.datetime, status: TaskStatus
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, waits_for=OFFLINE)
    make_task(rollout=rollout, status=status)
    BridgeSession.objects.create(client_id="bridge", seen_at=tomorrow, connected_since=tomorrow)
    rollouts.standstill.tell(tomorrow)
    assert not told(rollout)


def test_who_waits_for_the_hours_alone_is_not_talked_of(tomorrow: dt.datetime) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, waits_for=HOURS)
    rollouts.standstill.tell(tomorrow)
    assert not told(rollout)
    task = make_task(rollout=rollout)
    rollouts.standstill.tell(tomorrow)
    assert told(rollout) == [f"1 upgrade waits: 1 for their turn. Look at {task.gateway.sn}."]


def test_hours_that_never_begin_are_told(tomorrow: dt.datetime) -> None:
    organization = make_organization()
    site = Site.objects.create(organization=organization, name="Base", time_zone="Mars/Base")
    task = make_task(make_dock(organization=organization, site=site))
    make_listening()
    issue.look_again(timezone.now())
    rollouts.standstill.tell(tomorrow)
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["no_hours"]
    assert told(task.rollout) == [f"1 upgrade waits: 1 no_hours. Look at {task.gateway.sn}."]


def test_what_is_under_way_and_what_nobody_hears_of_is_told(tomorrow: dt.datetime) -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS)
    rollouts.standstill.tell(tomorrow)
    assert told(rollout) == [
        "1 upgrade is under way, and the MQTT bridge is not listening: nobody may hear how it ends. "
        f"Start the bridge. Look at {task.gateway.sn}."
    ]


def test_of_several_bridges_the_one_that_is_away_is_named(
    tomorrow: dt.datetime, settings: Settings
) -> None:
    settings.MQTT_SHARED_GROUP = "fleet"
    make_listening(client_id="one", seen_at=tomorrow)
    make_listening(client_id="two")
    task = make_task(rollout=make_rollout(), status=TaskStatus.IN_PROGRESS)
    rollouts.standstill.tell(tomorrow)
    assert "bridge two is away" in told(task.rollout)[0]


@pytest.mark.parametrize("is_over_a_day", [True, False])
def test_a_bridge_that_falls_a_day_behind_is_told(
    tomorrow: dt.datetime, *, is_over_a_day: bool
) -> None:
    up_to = tomorrow - dt.timedelta(hours=25 if is_over_a_day else 23)
    make_listening(seen_at=tomorrow, behind_since=up_to)
    task = make_task(rollout=make_rollout(), status=TaskStatus.IN_PROGRESS)
    rollouts.standstill.tell(tomorrow)
    text = (
        "1 upgrade is under way, and the MQTT bridge is more than a day behind: nobody may hear how it "
        "ends. It needs a faster machine, or a second bridge in its group. "
        f"Look at {task.gateway.sn}."
    )
    assert told(task.rollout) == ([text] if is_over_a_day else [])


@pytest.mark.parametrize("status", ["paused", "needs_approval", "canceled"])
def test_only_what_runs_can_stand_still(tomorrow: dt.datetime, status: str) -> None:
    rollout = make_rollout(status=status)
    make_task(rollout=rollout, waits_for=OFFLINE)
    rollouts.standstill.tell(tomorrow)
    assert not told(rollout)


def test_a_gate_that_nothing_meets_any_more_is_told(tomorrow: dt.datetime) -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, wave=second)
    finished: dict[str, Any] = {"finished_at": timezone.now(), "resolved_at": timezone.now()}
    make_task(rollout=rollout, status=TaskStatus.FAILED, **finished)
    course.advance(timezone.now())
    rollouts.standstill.tell(tomorrow)
    (text,) = told(rollout)
    assert text.startswith("wave 2 does not open: the gate of wave 1 is not met")


def test_a_wave_that_waits_for_a_click_because_the_last_was_canceled_whole_is_told(
    tomorrow: dt.datetime,
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, wave=make_wave(rollout, 2, opened_at=None))
    make_task(rollout=rollout, status=TaskStatus.CANCELED)
    rollouts.standstill.tell(tomorrow)
    assert told(rollout) == [
        "wave 2 does not open by itself: nothing of wave 1 was proven, because all of it was canceled. "
        "Open the wave by hand, or cancel the rollout."
    ]


def test_a_wave_that_soaks_is_not_talked_of(tomorrow: dt.datetime) -> None:
    rollout = make_rollout(soak_minutes=30 * 24 * 60)
    second = make_wave(rollout, 2, opened_at=None)
    make_task(rollout=rollout, wave=second)
    make_task(rollout=rollout, status=TaskStatus.OK)
    course.advance(timezone.now())
    rollouts.standstill.tell(tomorrow)
    assert not told(rollout)


def test_it_asks_as_often_for_many_upgrades_as_for_few(
    tomorrow: dt.datetime,
) -> None:
    costs = []
    for docks in (1, 9):
        rollout = make_rollout()
        for _ in range(docks):
            make_task(rollout=rollout, waits_for=OFFLINE)
        with CaptureQueriesContext(connection) as found:
            rollouts.standstill.tell(tomorrow)
        costs.append(len(found))
        Rollout.objects.update(status=Rollout.Status.PAUSED)
    assert costs[0] == costs[1]


def test_its_author_is_told_also_who_chose_before_there_was_such_news(
    tomorrow: dt.datetime,
) -> None:
    author = make_person("Operators")
    Preference.objects.create(user=author, console={Kind.STOPPED: "all"}, email={})
    rollout = make_rollout(name="Night", created_by=author)
    make_task(rollout=rollout, waits_for=OFFLINE)
    rollouts.standstill.tell(tomorrow)
    notices.tell(tomorrow)
    news = News.objects.get(kind=Kind.STANDSTILL)
    assert news.title == "Night has stood still for a day"
    wanted = [one.user for one in People().who_want(news, [])]
    assert wanted == [author]


def test_hours_that_open_for_a_quarter_of_an_hour_are_looked_into(settings: Settings) -> None:
    """Only while they are open a task tells what else it waits for."""
    minutes = sorted(settings.CELERY_BEAT_SCHEDULE["tell_standstill"]["schedule"].minute)
    rounds = zip(minutes, [*minutes[1:], minutes[0] + 60], strict=True)
    assert max(later - earlier for earlier, later in rounds) <= 15
