"""Old progress reports become a few numbers for each task.

They are nearly all of the history, and say nothing any more once the task has ended. What stays as it
is: who did what, the commands and their replies, each change of status with its result, and notes.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from database import bulk
from ota import states
from ota.models import FoldedReports, TaskEvent

# A step holds SQLite's one lock for some hundredths of a second; the bridge comes in between two.
AT_ONCE = 1000
STEPS = 20  # a minute: 28 million lines a day
PAUSE = 0.1  # s


class _Group(NamedTuple):
    """What is added up in one row."""

    task: int
    device_status: str
    result: int


def fold(now: dt.datetime, is_ending: Callable[[], bool] = bool) -> int:
    """Folds what is old enough, some steps of it; returns how many lines that were.

    ``is_ending`` tells whether the process is to end: the rest has time until the next minute.
    """
    folded = 0
    for _ in range(STEPS):
        found = step(now)
        folded += found
        if found < AT_ONCE or is_ending():
            break
        time.sleep(PAUSE)
    return folded


def step(now: dt.datetime) -> int:
    """Adds up the oldest lines and deletes them, or neither; returns how many.

    A second worker waits for the locks and then finds that the lines are gone.
    """
    with transaction.atomic():
        lines = {line.pk: line for line in _oldest(now)}
        bulk.add_up(
            _added_up(lines.values()),
            unique=("task", "device_status", "result"),
            sums=("reports", "late"),
            latest=("last_at",),
        )
        TaskEvent.objects.filter(pk__in=lines).delete()
    return len(lines)


def _oldest(now: dt.datetime) -> Iterable[TaskEvent]:
    """Old lines of tasks that have ended, in the order in which they came."""
    before = now - dt.timedelta(days=settings.EVENT_DAYS)
    old = TaskEvent.objects.filter(kind=TaskEvent.Kind.PROGRESS, at__lt=before)
    ended = old.filter(task__status__in=states.TERMINAL).order_by("at")
    needed = ended.only("at", "task_id", "device_status", "result", "is_late")
    return needed.select_for_update(of=("self",))[:AT_ONCE]


def _added_up(lines: Iterable[TaskEvent]) -> Iterable[FoldedReports]:
    found: dict[_Group, FoldedReports] = {}
    for line in lines:
        group = _Group(line.task_id, line.device_status, line.result or 0)
        row = found.setdefault(group, _empty(group, line.at))
        row.reports += 1
        row.late += line.is_late
        row.last_at = line.at
    return found.values()


def _empty(group: _Group, at: dt.datetime) -> FoldedReports:
    return FoldedReports(
        task_id=group.task,
        device_status=group.device_status,
        result=group.result,
        reports=0,
        late=0,
        first_at=at,
        last_at=at,
    )
