"""What blocks in the last moment, and commands that did not go out."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from ota import delivery
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import (
    make_dock,
    make_listening,
    make_rollout,
    make_task,
)
from tests.ota.broker import Broker, status, tick

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_what_blocks_in_the_last_moment_holds_the_command_back(broker: Broker) -> None:
    dock = make_dock()
    task = make_task(dock)
    issue.look_again(timezone.now())
    Device.objects.filter(pk=dock.pk).update(emergency_stop_state=1)
    issue.issue([task.pk], timezone.now())
    assert status(task) == TaskStatus.PENDING
    assert not broker.commands


def dock_is_stopped(task: UpgradeTask) -> None:
    values = {"emergency_stop_state": 1, "changed_at": timezone.now()}
    Device.objects.filter(pk=task.gateway_id).update(**values)


def package_is_withdrawn(task: UpgradeTask) -> None:
    FirmwarePackage.objects.update(state=FirmwarePackage.State.WITHDRAWN)


def another_worker_was_faster(task: UpgradeTask) -> None:
    """And what it sent came back at once, so that the task waits again."""
    UpgradeTask.objects.filter(pk=task.pk).update(attempt=1)


def rollout_is_paused(task: UpgradeTask) -> None:
    Rollout.objects.update(status=Rollout.Status.PAUSED)


def hours_are_changed(task: UpgradeTask) -> None:
    Rollout.objects.update(windows="Mon 00:00-00:01")


@pytest.mark.parametrize(
    "event",
    [
        dock_is_stopped,
        package_is_withdrawn,
        another_worker_was_faster,
        rollout_is_paused,
        hours_are_changed,
    ],
)
def test_what_happens_while_the_command_is_made_holds_it_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, event: Callable[[UpgradeTask], None]
) -> None:
    task, other = make_task(), make_task(status=TaskStatus.IN_PROGRESS)
    issue.look_again(timezone.now())
    real = delivery.link

    def link(*what: Any) -> str:
        event(task)
        return real(*what)

    monkeypatch.setattr(delivery, "link", link)
    assert issue.issue([task.pk, other.pk], timezone.now()) == 0
    assert status(task) == TaskStatus.PENDING
    assert not broker.commands


@pytest.mark.parametrize("status", [Rollout.Status.CANCELED, Rollout.Status.PAUSED])
def test_a_canceled_or_paused_rollout_sends_nothing(broker: Broker, status: str) -> None:
    make_task(rollout=make_rollout(status=status))
    tick()
    assert not broker.commands


def test_without_a_broker_the_task_waits_again(broker: Broker) -> None:
    task = make_task()
    broker.is_away = True
    tick()
    assert status(task) == TaskStatus.PENDING
    assert (task.attempt, task.waits_for[0]["code"]) == (0, "broker_unavailable")


def test_an_unconfirmed_command_counts_as_sent_and_says_so(broker: Broker) -> None:
    task = make_task()
    broker.outcome = Outcome.DOUBTFUL
    tick()
    assert status(task) == TaskStatus.SENT
    assert "did not confirm" in task.events.get(kind="note").text


def test_a_command_that_the_broker_refuses_waits_as_if_it_had_never_been_made(
    broker: Broker,
) -> None:
    task = make_task(status_at=timezone.now() - dt.timedelta(hours=1))
    since = task.status_at
    broker.outcome = Outcome.REFUSED
    tick()
    assert (status(task), task.attempt, task.sent_at) == (TaskStatus.PENDING, 0, None)
    assert task.status_at == since  # nothing has happened, so its rollout stands still
    assert task.waits_for[0]["code"] == "broker_refused"
    assert "refused" in task.events.latest("pk").text


def test_a_command_that_the_broker_refused_is_tried_again_in_ten_minutes(broker: Broker) -> None:
    task = make_task(make_dock(changed_at=timezone.now()))
    broker.outcome = Outcome.REFUSED
    for _ in range(3):
        tick()
    assert len(broker.commands) == 1
    broker.outcome = Outcome.CONFIRMED
    with time_machine.travel(timezone.now() + dt.timedelta(minutes=10)):
        make_listening()
        Device.objects.update(last_seen_at=timezone.now())
        tick()
    assert (status(task), len(broker.commands)) == (TaskStatus.SENT, 2)


def test_of_commands_sent_together_those_that_surely_did_not_go_wait_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed, doubtful, unsent = (make_task(rollout=make_rollout()) for _ in range(3))
    outcomes = [Outcome.CONFIRMED, Outcome.DOUBTFUL, Outcome.UNSENT]
    monkeypatch.setattr(publisher, "publish", lambda _: outcomes)
    tick()
    assert [status(task) for task in (confirmed, doubtful)] == [TaskStatus.SENT] * 2
    assert status(unsent) == TaskStatus.PENDING
    assert (unsent.attempt, unsent.waits_for[0]["code"]) == (0, "broker_unavailable")
    notes = [task.events.filter(kind="note").count() for task in (confirmed, doubtful, unsent)]
    assert notes == [0, 1, 0]


def test_a_command_that_cannot_be_made_holds_only_its_own_task(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_rollout()
    bad, good = make_task(rollout=rollout), make_task(rollout=rollout)
    real = delivery.link

    def link(task_id: int, package: FirmwarePackage) -> str:
        if task_id == bad.pk:
            raise OSError("no keys for the bucket")
        return real(task_id, package)

    monkeypatch.setattr(delivery, "link", link)
    tick()
    assert status(good) == TaskStatus.SENT
    assert status(bad) == TaskStatus.PENDING
    assert bad.waits_for[0]["code"] == "no_link"
