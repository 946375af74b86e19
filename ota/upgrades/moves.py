"""Where what a dock says leads its task."""

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from ota import states
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import retries

# The words of docks for an upgrade that has ended without success. ``canceled`` is ours for what was
# never sent and harms nobody: a dock that says so has begun.
ENDS = {str(status): status for status in states.UNSUCCESSFUL} | {"canceled": TaskStatus.FAILED}


class Move(NamedTuple):
    """Where a report leads: the status, the result and why."""

    target: TaskStatus
    result: int | None = None
    text: str = ""


def apply(
    moves: dict[Move, list[UpgradeTask]],
    now: dt.datetime,
    only_from: Iterable[TaskStatus] | None = None,
) -> None:
    """Moves the tasks; a failure leads to another attempt or to the end, each for itself."""
    for move, tasks in moves.items():
        if move.target in states.UNSUCCESSFUL:
            _fail(move, tasks, now, only_from)
            continue
        pks = [task.pk for task in tasks]
        UpgradeTask.objects.move(
            pks, move.target, now, move.text[:500], only_from=only_from, result=move.result
        )


def _fail(
    move: Move,
    tasks: Iterable[UpgradeTask],
    now: dt.datetime,
    only_from: Iterable[TaskStatus] | None,
) -> None:
    """Each failure ends its task or leads to another attempt; few, so some statements each are fine."""
    for task in tasks:
        found = retries.outcome(task, move.target, move.result, move.text, now)
        UpgradeTask.objects.move(
            [task.pk],
            found.target,
            now,
            found.text[:500],
            only_from=only_from,
            result=move.result,
            **found.fields,
        )
