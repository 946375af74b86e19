"""Old progress reports are added up for each task, and nothing else of its history goes."""

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from config.tasks import forget_sessions
from ota.models import FoldedReports, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import folding
from tests.make import make_task

pytestmark = pytest.mark.django_db

Kind = TaskEvent.Kind
NOW = timezone.now()
OLD = NOW - dt.timedelta(days=settings.EVENT_DAYS, hours=1)


def old_task(status: TaskStatus = TaskStatus.OK) -> UpgradeTask:
    return make_task(status=status, finished_at=OLD if status == TaskStatus.OK else None)


def report(task: UpgradeTask, at: dt.datetime = OLD, **fields: Any) -> None:
    values = {"kind": Kind.PROGRESS, "device_status": "in_progress", "result": 0} | fields
    TaskEvent.objects.create(task=task, at=at, key=uuid.uuid4(), **values)


def report_often(task: UpgradeTask, number: int, at: dt.datetime = OLD) -> None:
    TaskEvent.objects.bulk_create(
        TaskEvent(task=task, at=at, kind=Kind.PROGRESS, device_status="in_progress")
        for _ in range(number)
    )


def totals(task: UpgradeTask) -> list[tuple[str, int, int, int]]:
    return list(task.folded.values_list("device_status", "result", "reports", "late"))


def test_old_reports_are_added_up_by_status_and_result() -> None:
    task = old_task()
    words: list[dict[str, Any]] = [
        {"device_status": "sent"},
        {},
        {"is_late": True},
        {"device_status": "failed", "result": 7},
    ]
    for minute, fields in enumerate(words):
        report(task, OLD + dt.timedelta(minutes=minute), **fields)
    assert folding.fold(NOW) == 4
    assert totals(task) == [("sent", 0, 1, 0), ("in_progress", 0, 2, 1), ("failed", 7, 1, 0)]
    running = task.folded.get(device_status="in_progress")
    assert running.first_at == OLD + dt.timedelta(minutes=1)
    assert running.last_at == OLD + dt.timedelta(minutes=2)
    assert not task.events.exists()


def test_what_people_and_commands_did_stays_as_it_is() -> None:
    task, anna = old_task(), User.objects.create(username="anna")
    for kind in (Kind.STATUS, Kind.COMMAND, Kind.REPLY, Kind.NOTE):
        report(task, kind=kind, actor=anna)
    assert folding.fold(NOW) == 0
    assert task.events.filter(actor=anna).count() == 4


def test_a_report_that_is_young_enough_stays() -> None:
    task = old_task()
    report(task, OLD + dt.timedelta(hours=2))
    assert folding.fold(NOW) == 0
    assert task.events.count() == 1


def test_an_open_task_keeps_its_lines_and_holds_up_no_other() -> None:
    waiting, ended = old_task(TaskStatus.PENDING), old_task()
    report(waiting, OLD - dt.timedelta(days=1))
    report(ended)
    assert folding.fold(NOW) == 1
    assert waiting.events.count() == 1
    assert totals(ended) == [("in_progress", 0, 1, 0)]


def test_reports_that_age_later_are_added_to_those_that_are_folded() -> None:
    task = old_task()
    report(task)
    report(task, OLD + dt.timedelta(days=1))
    folding.fold(NOW)
    folding.fold(NOW + dt.timedelta(days=1))
    folding.fold(NOW + dt.timedelta(days=1))
    assert totals(task) == [("in_progress", 0, 2, 0)]
    assert task.folded.get().last_at == OLD + dt.timedelta(days=1)


def test_a_long_history_is_folded_step_by_step() -> None:
    task = old_task()
    report_often(task, folding.AT_ONCE + 5)
    assert folding.step(NOW) == folding.AT_ONCE
    assert totals(task) == [("in_progress", 0, folding.AT_ONCE, 0)]
    assert folding.fold(NOW) == 5
    assert totals(task) == [("in_progress", 0, folding.AT_ONCE + 5, 0)]


def test_a_worker_that_is_to_end_leaves_the_rest_to_the_next() -> None:
    task = old_task()
    report_often(task, folding.AT_ONCE + 5)
    assert folding.fold(NOW, is_ending=lambda: True) == folding.AT_ONCE
    assert task.events.count() == 5


def test_a_step_that_is_killed_loses_nothing_and_counts_nothing_twice() -> None:
    task = old_task()
    report_often(task, 3)
    with transaction.atomic():
        folding.step(NOW)
        transaction.set_rollback(True)
    assert task.events.count() == 3
    assert not FoldedReports.objects.exists()
    folding.step(NOW)
    assert totals(task) == [("in_progress", 0, 3, 0)]


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_count_each_line_once() -> None:
    task = old_task()
    report_often(task, 50)
    with ThreadPoolExecutor(2) as workers:
        done = list(workers.map(lambda _: step_apart(), range(2)))
    assert sorted(done) == [0, 50]
    assert totals(task) == [("in_progress", 0, 50, 0)]


def step_apart() -> int:
    """A step on a connection of its own."""
    try:
        return folding.step(NOW)
    finally:
        connection.close()


def test_a_step_costs_the_same_queries_for_any_number_of_tasks() -> None:
    def queries(tasks: int) -> int:
        for _ in range(tasks):
            report_often(old_task(), 3)
        with CaptureQueriesContext(
            connection,
        ) as found:
            folding.step(NOW)
        return len(found)

    assert queries(1) == queries(10)


def test_sessions_that_have_expired_are_removed() -> None:
    for key, days in (("gone", -1), ("here", 1)):
        expires = NOW + dt.timedelta(days=days)
        Session.objects.create(session_key=key, session_data="", expire_date=expires)
    forget_sessions()
    assert list(Session.objects.values_list("session_key", flat=True)) == ["here"]
