"""A dock that somebody else upgrades while our task waits for it: blocked, followed, and looked at anew."""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, publisher, router
from mqtt_bridge.client import Outcome
from ota.models import ForeignUpgrade, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, limits
from tests.make import NEW, OLD, envelope, make_dock, make_listening, make_task, progress, received

pytestmark = pytest.mark.django_db

BETWEEN = "10.01.2000"
NEWER = "14.03.0915"


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC), tick=False) as found:
        router.discover()
        yield found


@pytest.fixture(autouse=True)
def commands(clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What goes to docks."""
    make_listening()
    found: list[Any] = []

    def publish(messages: Any) -> list[Outcome]:
        found.extend(json.loads(payload) for _, payload in messages)
        return [Outcome.CONFIRMED] * len(messages)

    monkeypatch.setattr(publisher, "connect", lambda: None)
    monkeypatch.setattr(publisher, "publish", publish)
    return found


def say(task: UpgradeTask, kind: str, data: Any, method: str = "", **ids: str) -> None:
    message = envelope(data, method, **ids)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/{kind}", message)])


def tick(clock: time_machine.Traveller) -> None:
    """A second later."""
    clock.shift(1)
    now = timezone.now()
    limits.enforce(now)
    issue.look_again(now)
    issue.issue(issue.due(now), now)


def codes(task: UpgradeTask) -> list[str]:
    task.refresh_from_db()
    return [reason["code"] for reason in task.waits_for]


def wait(clock: time_machine.Traveller, seconds: float) -> None:
    """Meanwhile the dock is heard, and a bridge listens."""
    clock.shift(seconds)
    make_listening()
    Device.objects.update(last_seen_at=timezone.now())


@pytest.fixture
def task(clock: time_machine.Traveller) -> UpgradeTask:
    """It waits: its dock has begun with what somebody else told it."""
    made = make_task(make_dock(mode_code=3))
    say(made, "events", progress("in_progress", 10), "ota_progress", bid="theirs")
    tick(clock)
    assert codes(made) == ["busy", "foreign_upgrade"]
    return made


def end(task: UpgradeTask, clock: time_machine.Traveller, version: str) -> None:
    """Their upgrade ends, and the dock is back with this version."""
    say(task, "events", progress("ok", 100), "ota_progress", bid="theirs")
    clock.shift(1)
    say(task, "osd", {"mode_code": 0})
    say(task, "state", {"firmware_version": version})
    tick(clock)


def test_a_dock_that_others_gave_the_wanted_version_is_proven_without_a_command(
    task: UpgradeTask, clock: time_machine.Traveller, commands: list[Any]
) -> None:
    end(task, clock, NEW)
    task.refresh_from_db()
    assert (task.status, task.attempt, commands) == (TaskStatus.OK, 0, [])
    assert not ForeignUpgrade.objects.filter(finished_at=None).exists()


@pytest.mark.parametrize("version", [OLD, BETWEEN])
def test_a_dock_that_others_left_behind_gets_ours_with_the_next_tick(
    task: UpgradeTask, clock: time_machine.Traveller, commands: list[Any], version: str
) -> None:
    end(task, clock, version)
    task.refresh_from_db()
    assert task.status == TaskStatus.SENT
    assert [command["bid"] for command in commands] == [task.bid]


def test_a_dock_that_others_took_further_is_not_taken_back(
    task: UpgradeTask, clock: time_machine.Traveller, commands: list[Any]
) -> None:
    end(task, clock, NEWER)
    task.refresh_from_db()
    assert (task.status, commands) == (TaskStatus.CANCELED, [])
    assert "downgrade" in task.message


def test_an_upgrade_of_others_that_is_never_heard_to_end_holds_ours_back_for_the_limit_of_silence(
    task: UpgradeTask, clock: time_machine.Traveller, commands: list[Any]
) -> None:
    say(task, "osd", {"mode_code": 0})
    tick(clock)
    assert codes(task) == ["foreign_upgrade"]
    wait(clock, 20 * 60)
    say(task, "osd", {"mode_code": 0})
    tick(clock)
    tick(clock)
    assert [command["bid"] for command in commands] == [task.bid]


def test_a_dock_that_others_begin_with_just_before_our_command_is_followed_and_then_gets_ours(
    clock: time_machine.Traveller, commands: list[Any]
) -> None:
    task = make_task(make_dock())
    tick(clock)
    ids = {"tid": commands[0]["tid"], "bid": task.bid}
    say(task, "services_reply", {"result": 312014}, "ota_create", **ids)
    say(task, "events", progress("in_progress", 10), "ota_progress", bid="theirs")
    say(task, "osd", {"mode_code": 3})
    wait(clock, 90)
    say(task, "osd", {"mode_code": 3})
    tick(clock)
    assert codes(task) == ["busy", "foreign_upgrade"]
    end(task, clock, BETWEEN)
    assert [command["bid"] for command in commands] == [task.bid, task.bid]
    assert len({command["tid"] for command in commands}) == 2
