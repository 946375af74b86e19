"""From chosen to sent by a worker that is slow, stands still or reaches no broker."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device
from mqtt_bridge import publisher, router
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from ota import rollouts
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import files, issue, judging, limits
from tests.make import NEW, envelope, make_listening, make_task, progress
from tests.ota.doubt import accept, enforce, say, tell_version

pytestmark = pytest.mark.django_db

Sent = list[str]


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    start = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
    with time_machine.travel(start, tick=False) as found:
        yield found


@pytest.fixture(autouse=True)
def sent(clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The ``tid`` of each command that a broker took, which confirms all."""
    router.discover()
    found: Sent = []

    def publish(messages: Any) -> list[Outcome]:
        found.extend(json.loads(payload)["tid"] for _, payload in messages)
        return [Outcome.CONFIRMED] * len(messages)

    monkeypatch.setattr(publisher, "connect", lambda: None)
    monkeypatch.setattr(publisher, "publish", publish)
    return found


def once_before(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, what: Callable[[], Any]
) -> None:
    """Something happens right before a function is called the next time."""
    real = getattr(where, name)

    def call(*given: Any) -> Any:
        monkeypatch.setattr(where, name, real)
        what()
        return real(*given)

    monkeypatch.setattr(where, name, call)


def send(task: UpgradeTask) -> int:
    """What a worker does with a chunk of this one task, whose dock is heard all the time."""
    make_listening()
    Device.objects.update(last_seen_at=timezone.now())
    count = issue.issue([task.pk], timezone.now())
    task.refresh_from_db()
    return count


# A look at the packages' files that takes its time


def test_the_time_for_a_reply_begins_when_the_command_goes_out(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller
) -> None:
    task = make_task()
    once_before(monkeypatch, files, "look", lambda: clock.shift(9))
    assert send(task) == 1
    assert task.sent_at == timezone.now()
    assert {event.at for event in task.events.all()} == {task.sent_at}


def test_what_was_judged_too_long_ago_is_judged_anew(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller, sent: Sent
) -> None:
    task = make_task()
    once_before(monkeypatch, files, "look", lambda: clock.shift(36))
    assert send(task) == 0
    assert (task.status, task.attempt, sent) == (TaskStatus.PENDING, 0, [])
    assert [reason["code"] for reason in task.waits_for] == ["no_link"]
    assert send(task) == 1
    assert sent == [task.tid]


# A worker that stands still, as on a machine that is paused


def test_a_command_that_another_worker_sent_meanwhile_does_not_go_out_once_more(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller, sent: Sent
) -> None:
    task = make_task()

    def go_on_without_it() -> None:
        clock.shift(40)
        make_listening()
        Device.objects.update(last_seen_at=timezone.now())
        enforce(task)
        assert send(task) == 1
        clock.shift(1)
        accept(task, task.tid)
        say(task, "events", envelope(progress("ok", 100), "ota_progress", bid=task.bid))
        tell_version(task, NEW)
        assert task.status == TaskStatus.OK

    once_before(monkeypatch, issue, "_publish", go_on_without_it)
    send(task)
    assert sent == [task.tid]
    assert (task.status, task.attempt) == (TaskStatus.OK, 2)
    assert "the command was not sent" in task.events.latest("pk").text


@pytest.mark.parametrize(("reply_time", "late"), [(30, 11), (6, 3)])
def test_a_command_that_comes_late_waits_for_another_look(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    clock: time_machine.Traveller,
    sent: Sent,
    reply_time: float,
    late: float,
) -> None:
    settings.REPLY_TIME = reply_time
    task = make_task()
    once_before(monkeypatch, issue, "_publish", lambda: clock.shift(late))
    send(task)
    assert (task.status, task.attempt, task.unanswered, sent) == (TaskStatus.PENDING, 0, 0, [])
    assert task.status_at == task.events.latest("pk").at == timezone.now()
    assert [reason["code"] for reason in task.waits_for] == ["no_link"]
    assert send(task) == 1
    assert sent == [task.tid]


def test_a_command_does_not_go_out_when_the_dock_has_just_accepted_the_one_before(
    monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    first = task.tid
    make_listening()
    enforce(task)
    assert task.status == TaskStatus.PENDING
    once_before(monkeypatch, issue, "_publish", lambda: accept(task, first))
    send(task)
    assert (task.status, task.replied_at, sent) == (TaskStatus.SENT, timezone.now(), [])


def test_a_look_that_takes_long_sends_nothing_late(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller, sent: Sent
) -> None:
    """As while the database hangs."""
    task = make_task()
    once_before(monkeypatch, issue, "_claimed_at", lambda: clock.shift(60))
    send(task)
    assert (task.status, task.attempt, sent) == (TaskStatus.PENDING, 0, [])


def heard_again() -> None:
    make_listening()
    Device.objects.update(last_seen_at=timezone.now())


def test_a_tick_that_stood_still_does_not_take_the_next_command_for_unanswered(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller, sent: Sent
) -> None:
    task = make_task()
    send(task)
    clock.shift(31)
    heard_again()

    def go_on_without_it() -> None:
        clock.shift(20)
        heard_again()
        enforce(task)
        assert send(task) == 1

    once_before(monkeypatch, limits, "_carry_out", go_on_without_it)
    enforce(task)
    assert (task.status, task.attempt, task.unanswered) == (TaskStatus.SENT, 2, 1)
    assert sent[-1] == task.tid


def test_a_tick_that_stood_still_does_not_fail_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller
) -> None:
    at = timezone.now() - dt.timedelta(hours=1)
    task = make_task(status=TaskStatus.VERIFYING, status_at=at, sent_at=at, replied_at=at)
    heard_again()

    def go_on_without_it() -> None:
        clock.shift(20)
        heard_again()
        enforce(task)
        UpgradeTask.objects.update(not_before=timezone.now())
        assert send(task) == 1
        accept(task, task.tid)
        say(task, "events", envelope(progress("ok", 100), "ota_progress", bid=task.bid))

    once_before(monkeypatch, limits, "_fail", go_on_without_it)
    enforce(task)
    assert (task.status, task.attempt, task.retries) == (TaskStatus.VERIFYING, 2, 1)


# A broker that lets the bridge in and no worker


def test_without_a_connection_no_task_is_touched_and_its_rollout_stands_still(
    monkeypatch: pytest.MonkeyPatch, clock: time_machine.Traveller
) -> None:
    def connect() -> None:
        raise BrokerUnavailable("not authorized")

    monkeypatch.setattr(publisher, "connect", connect)
    task = make_task()
    clock.shift(25 * 3600)
    for _ in range(5):
        clock.shift(5)
        assert send(task) == 0
    assert (task.status, task.attempt, task.events.count()) == (TaskStatus.PENDING, 0, 0)
    assert [reason["code"] for reason in task.waits_for] == ["broker_unavailable"]
    assert task.due_at == timezone.now() + judging.LOOK_AGAIN
    rollouts.standstill.tell(timezone.now())
    assert task.rollout.events.get(kind="standstill").text.startswith(
        "1 upgrade waits: 1 broker_unavailable."
    )
