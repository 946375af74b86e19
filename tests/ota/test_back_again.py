"""A dock that was gone when its command went out may get it only once it is back: it has time to answer."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device
from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import envelope, make_dock, make_task
from tests.ota.doubt import accept, ago, enforce, fail, is_sent, say

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("willing_broker")]

TOLD = "the dock is back and may still answer the last command"


def back() -> UpgradeTask:
    """Its dock went right before the command, for less than makes it offline, and has just come back."""
    dock = make_dock(last_seen_at=ago(0.7), online_since=ago(60))
    task = make_task(dock, status=TaskStatus.SENT, replied_at=None, sent_at=ago(0.6))
    enforce(task)
    assert task.status == TaskStatus.PENDING
    say(task, "osd", envelope({"mode_code": 0}))
    return task


def came_back(minutes: float) -> None:
    Device.objects.update(online_since=ago(minutes))


@pytest.mark.parametrize(("reply_time", "settle_time"), [(30, 10), (30, 0), (5, 10)])
def test_a_dock_that_is_back_has_time_to_answer_before_another_command_goes_out(
    settings: Settings, reply_time: float, settle_time: float
) -> None:
    settings.REPLY_TIME, settings.SETTLE_TIME = reply_time, settle_time
    task, longest = back(), dt.timedelta(seconds=max(reply_time, settle_time))
    assert not is_sent(task)
    Device.objects.update(online_since=timezone.now() - longest + dt.timedelta(seconds=1))
    assert not is_sent(task)
    Device.objects.update(online_since=timezone.now() - longest)
    assert is_sent(task)


def test_its_task_says_what_it_waits_for_and_is_looked_at_as_soon_as_that_is_over() -> None:
    task = back()
    came_back(0.25)
    issue.look_again(timezone.now())
    task.refresh_from_db()
    assert task.waits_for == [{"code": "silent", "text": TOLD}]
    assert task.due_at == task.gateway.settled_at(30)


def test_a_late_reply_is_followed_and_no_other_command_goes_out() -> None:
    task = back()
    accept(task, task.tid)
    assert task.status == TaskStatus.IN_PROGRESS
    came_back(1)
    assert not is_sent(task)


def test_a_dock_that_answered_the_last_command_is_not_waited_for() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    fail(task, 312002)
    came_back(0.25)
    UpgradeTask.objects.update(not_before=timezone.now())
    assert issue.issue([task.pk], timezone.now()) == 1


# One that goes after the command, and has not answered yet


def unanswered(seconds: float, **dock: Any) -> UpgradeTask:
    """Sent 32 s ago to a dock that was last heard so many seconds ago."""
    told: dict[str, Any] = {"last_seen_at": ago(seconds / 60), "online_since": ago(60)}
    sent: dict[str, Any] = {"replied_at": None, "sent_at": ago(32 / 60)}
    return make_task(make_dock(**told | dock), status=TaskStatus.SENT, **sent)


def test_a_dock_that_goes_before_it_has_answered_has_time_for_that_when_it_is_back() -> None:
    task = unanswered(31)
    enforce(task)
    assert task.status == TaskStatus.PENDING
    assert not is_sent(task)
    say(task, "osd", envelope({"mode_code": 0}))
    assert not is_sent(task)
    came_back(0.5)
    assert is_sent(task)


@pytest.mark.parametrize("before", [0, 1], ids=["the first command", "the last command"])
def test_so_has_one_that_is_back_just_before_the_time_for_its_reply_is_over(before: int) -> None:
    task = unanswered(31)
    commands = {"attempt": before + 1, "unanswered": before}
    UpgradeTask.objects.update(sent_at=ago(29 / 60), **commands)
    enforce(task)
    assert task.status == TaskStatus.SENT
    say(task, "osd", envelope({"mode_code": 0}))
    UpgradeTask.objects.update(sent_at=ago(32 / 60))
    enforce(task)
    assert task.status == TaskStatus.SENT
    accept(task, task.tid)
    assert task.replied_at


@pytest.mark.parametrize(("away", "expected"), [(1.5, TaskStatus.SENT), (60, TaskStatus.VERIFYING)])
def test_one_that_answers_before_it_says_anything_else_is_not_back_from_its_upgrade(
    away: float, expected: TaskStatus
) -> None:
    task = unanswered(25)
    UpgradeTask.objects.update(sent_at=ago(24 / 60))
    enforce(task)
    accept(task, task.tid)
    say(task, "osd", envelope({"mode_code": 0}))
    came_back(11 / 60)
    UpgradeTask.objects.update(replied_at=ago((11 + away) / 60), sent_at=ago(2))
    enforce(task)
    assert task.status == expected


@pytest.mark.parametrize(("seconds", "mode"), [(21, 0), (31, 3)])
def test_a_dock_that_may_have_been_heard_since_or_upgrades_is_not_gone(
    seconds: float, mode: int
) -> None:
    task = unanswered(seconds, mode_code=mode)
    enforce(task)
    dock = Device.objects.get()
    assert (dock.is_online, dock.mode_code) == (True, mode)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_command_that_did_not_go_out_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    def publish(messages: Any) -> list[Outcome]:
        raise BrokerUnavailable("away")

    task = make_task() if is_first else make_task(status=TaskStatus.SENT, replied_at=None)
    sent_at = task.sent_at
    enforce(task)
    with monkeypatch.context() as away:
        away.setattr(publisher, "publish", publish)
        is_sent(task)
    task.refresh_from_db()
    assert (task.status, task.sent_at) == (TaskStatus.PENDING, sent_at)
    came_back(0.25)
    assert is_sent(task) == is_first
