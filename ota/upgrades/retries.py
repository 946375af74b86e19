"""Which failures deserve another attempt, and when; by the device's code (Cloud API, error codes).

Another attempt keeps the task's ``bid`` and has a new ``tid``. After the last one the task ends, holds no
slot, and needs somebody's attention.
"""

import datetime as dt
import random
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import F, Max, Q, QuerySet

from ota import errors
from ota.errors import Remedy
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTask
from ota.needs import Reason
from ota.states import UNFINISHED, TaskStatus
from ota.upgrades import files, hours

# A pause is spread by so much, so that docks that failed together do not come back together.
JITTER = 0.2
LONGEST_PAUSE = 30 * 60  # s


class Outcome(NamedTuple):
    """Where a failure leads, why, and what is set along with the status."""

    target: TaskStatus
    text: str
    fields: dict[str, Any]


def outcome(
    task: UpgradeTask, target: TaskStatus, result: int | None, text: str, now: dt.datetime
) -> Outcome:
    """Another attempt after a pause, if the failure deserves one; else the end that it is."""
    if result == errors.RESTARTED:
        return Outcome(TaskStatus.VERIFYING, f"{text} What it reports then decides.", {})
    pause = _pause(task, target, result)
    if pause is None:
        return Outcome(target, text, {})
    again = now + dt.timedelta(seconds=pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
    if not _may_go_on(task, again):
        return Outcome(target, text, {})
    if _remedy(result) == Remedy.RETRY_AFTER_FIX:
        _have_checked(task, text, now)
    return Outcome(
        TaskStatus.PENDING,
        f"{text}; tried again after a pause",
        {
            "retries": F("retries") + 1,
            "unanswered": 0,
            "not_before": again,
            "message": text[:500],
            "waits_for": [resting(task, again).as_json()],
            "is_ready": False,
            "checked_at": None,
            "due_at": again,
            "replied_at": None,
            "taken_at": None,
            "device_ok_at": None,
            "no_show_at": None,
            "percent": None,
            "step": "",
            "rate": None,
        },
    )


def resting(task: UpgradeTask, again: dt.datetime) -> Reason:
    """What a task waits for whose attempt has failed."""
    return Reason(
        "not_yet",
        f"its pause after a failure lasts until {hours.shown(task.gateway, again)}, then it goes again",
    )


def is_echo(retries: int, replied_at: dt.datetime | None) -> bool:
    """Whether a failure can only be that of an attempt that is over: the next has not been answered."""
    return retries > 0 and replied_at is None


def is_resting(task: UpgradeTask) -> bool:
    """Whether an attempt failed and the next has not been sent: replies are of those that are over."""
    return task.status == TaskStatus.PENDING and task.retries > 0 and task.not_before is not None


def is_waiting(task: UpgradeTask) -> bool:
    """Whether the dock has only asked to wait, so that its last command did nothing."""
    return is_resting(task) and _remedy(task.result) == Remedy.WAIT


def is_after_last_failure(task: UpgradeTask, tid: str) -> bool:
    """Whether a command with this ``tid`` went out after the last failure; a look-up, for rare cases."""
    return _since_last_failure(task).filter(tid=tid).exists()


def went_unanswered(task: UpgradeTask, tid: str) -> bool:
    """Whether nobody answered a command that went out after the last failure and before that with this ``tid``.

    For a ``tid`` that is none of the task's, before the last command; a look-up, for rare cases.
    """
    sent = list(_since_last_failure(task).order_by("pk").values_list("tid", flat=True))
    # One that did not go out has the ``tid`` of the next, or comes after the one in question.
    last = next((one for one in (tid, task.tid) if one in sent), None)
    before = set(sent[: sent.index(last)]) if last else set()
    replies = task.events.filter(kind=TaskEvent.Kind.REPLY, tid__in=before)
    return bool(before - set(replies.values_list("tid", flat=True)))


def _since_last_failure(task: UpgradeTask) -> QuerySet[TaskEvent]:
    """The lines of the commands that belong to the attempt that is under way."""
    lines = task.events.filter(kind=TaskEvent.Kind.STATUS, to_status=TaskStatus.PENDING)
    # From ``sent`` and without a result it was not sent, or not answered: that is no failure.
    failures = lines.exclude(from_status=TaskStatus.SENT, result=None).aggregate(last=Max("pk"))
    return task.events.filter(kind=TaskEvent.Kind.COMMAND, pk__gt=failures["last"] or 0)


def _remedy(result: int | None) -> Remedy | None:
    return errors.explain(result).remedy if result else None


def _pause(task: UpgradeTask, target: TaskStatus, result: int | None) -> float | None:
    """Seconds until the next attempt; None if there is none."""
    remedy = _remedy(result)
    if remedy == Remedy.WAIT and task.retries < settings.WAIT_RETRIES:
        return min(LONGEST_PAUSE, settings.WAIT_PAUSE * 2.0**task.retries)
    if remedy == Remedy.RETRY_AFTER_FIX and task.retries < min(1, settings.RETRIES):
        return settings.RETRY_PAUSE
    is_interrupted = target == TaskStatus.TIMEOUT and not result
    if (remedy == Remedy.RETRY or is_interrupted) and task.retries < settings.RETRIES:
        return settings.RETRY_PAUSE
    return None


def _may_go_on(task: UpgradeTask, again: dt.datetime) -> bool:
    """A failure after which the deadline leaves no time stays a failure, and needs somebody."""
    in_time = Q(deadline_at=None) | Q(deadline_at__gt=again)
    going = Rollout.objects.filter(in_time, pk=task.rollout_id, status__in=UNFINISHED)
    return going.exists()


def _have_checked(task: UpgradeTask, text: str, now: dt.datetime) -> None:
    """Has all bytes of the packages read again first; until that is done the task waits."""
    # In one order, whatever the task's targets: bridges wait for each other and do not lock each other out.
    packages = FirmwarePackage.objects.filter(targets__task=task).distinct().order_by("pk")
    reason = f"checked anew: the upgrade of {task.gateway} failed, {text}"
    files.doubt(packages, reason, now)
