"""How upgrades go on, as docks report it."""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from database import bulk
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message, is_overtaken
from ota import errors, live, states
from ota.messages import Report
from ota.models import UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import lines, others, proof, retries
from ota.upgrades.moves import ENDS, Move, apply
from ota.upgrades.order import Word, is_before
from ota.upgrades.standing import Reports, Standing, match

# What docks say; the empty one is a missing one.
_STATUSES = {"", "sent", "in_progress", "paused", "ok", "failed", "rejected", "canceled", "timeout"}
_ALL_ENDS = {str(status) for status in states.TERMINAL}


def record_progress(messages: Reports, now: dt.datetime) -> None:
    """``ota_progress`` of any dialect, in any order, any number of times.

    A batch that only tells how far upgrades have come costs three statements.
    """
    matched, foreign = match(messages)
    matched = lines.write_progress(matched)
    tasks = {task.pk: task for _, task in matched}
    reports: defaultdict[int, list[Message[Report]]] = defaultdict(list)
    for message, task in matched:
        reports[task.pk].append(message)
    said = {message.data.status for message in messages}
    if strange := said - _STATUSES:
        _count_unknown(messages, strange)
    late: list[Message[Report]] = []
    rows: dict[int, dict[str, Any]] = {}
    moves: defaultdict[Move, list[Standing]] = defaultdict(list)
    with_another = _with_another(reports, tasks)
    for pk, found in reports.items():
        task = tasks[pk]
        new = _newer(task, found, now, has_another=pk in with_another)
        if len(new) < len(found):
            late += [message for message in found if message not in new]
        if new:
            move = _move(new[-1])
            rows[pk] = _columns(new[-1], move, now) | _confirmed(new[0], task, now)
            moves[move].append(task)
    lines.mark_late(late)
    bulk.update(UpgradeTask, _COLUMNS, rows)
    _reopen([task for move, found in moves.items() if not _is_ok(move) for task in found])
    _apply_progress(moves, now)
    live.announce((tasks[pk].rollout_id, pk) for pk in rows)
    if said & _ALL_ENDS:
        ends = [(m, task) for m, task in matched if m.data.is_end]
        others.end({(t.sn, bid, m.at) for m, t in ends for bid in ("", m.bid, t.bid)}, now)
    others.record(foreign, now)


def _count_unknown(messages: Reports, strange: set[str]) -> None:
    """Statuses that no document names are counted; they mean running."""
    times = sum(message.data.status in strange for message in messages)
    metrics.count("unknown_values", times, field="status")


_COLUMNS = (
    "percent",
    "step",
    "rate",
    "result",
    "message",
    "progress_at",
    "progress_seen_at",
    "replied_at",
    "taken_at",
    "device_ok_at",
)


def _with_another(reports: Mapping[int, Reports], tasks: Mapping[int, Standing]) -> Collection[int]:
    """The tasks of two devices whose dock goes on, or fails, after a success: that may be the first one's.

    Rare.
    """
    asked = [pk for pk, found in reports.items() if _goes_on(tasks[pk], found)]
    if not asked:
        return ()
    proofs: defaultdict[int, list[dt.datetime | None]] = defaultdict(list)
    targets = UpgradeTarget.objects.filter(task__in=asked)
    for pk, confirmed_at in targets.values_list("task", "confirmed_at"):
        proofs[pk].append(confirmed_at)
    return {pk for pk, found in proofs.items() if len(found) > 1 and None in found}


def _goes_on(task: Standing, found: Reports) -> bool:
    """Whether anything else was told after a success that was told now or before."""
    succeeded = [m.at for m in found if m.data.status == TaskStatus.OK]
    if not succeeded and not task.device_ok_at:
        return False
    later = [m for m in found if task.device_ok_at or m.at > min(succeeded)]
    return any(not _is_ok(_move(message)) for message in later)


def _newer(
    task: Standing, found: Reports, now: dt.datetime, *, has_another: bool
) -> list[Message[Report]]:
    """The reports that say something new, oldest first: none after the end that a dock told.

    Success is no end while another device of the same command may follow.
    """
    if task.status in states.TERMINAL or (task.device_ok_at and not has_another):
        return []
    new: list[Message[Report]] = []
    for message in sorted(found, key=lambda message: message.at):
        if new:
            task = _after(new[-1], task, now)
        if not _is_late(message, task, now):
            new.append(message)
            if message.data.is_end and not (has_another and _is_ok(_move(message))):
                break
    return new


def _after(message: Message[Report], task: Standing, now: dt.datetime) -> Standing:
    """How the task stands once it has heard the message."""
    return task._replace(
        progress_at=message.at,
        progress_seen_at=now,
        device_ok_at=now if _is_ok(_move(message)) else None,
        **_confirmed(message, task, now),
    )


def _is_late(message: Message[Report], task: Standing, now: dt.datetime) -> bool:
    """Whether it is older than what we know, or of an attempt that is over.

    What goes on is believed to a dock whose clock was set back, an end is not: to take it for that of the
    last attempt could send another command, and to leave it lets the versions decide.
    """
    if is_overtaken(message, task.progress_at, task.progress_seen_at):
        return True
    word = Word(message.at, now)
    if task.device_ok_at:  # only another device can follow
        return not _may_follow(message, task) or is_before(word, task.last, task.start)
    if retries.is_echo(task.retries, task.replied_at):  # until something of it was told
        is_failure = _move(message).target in ENDS.values()
        if is_failure or is_before(word, task.last, task.start):
            return True
    return message.data.is_end and is_before(word, task.began(message.bid), task.start)


def _may_follow(message: Message[Report], task: Standing) -> bool:
    """Whether it can be of another device than the one that has succeeded.

    A failure only if the dock names our command and said it later: others may begin as soon as it is over.
    """
    if not message.data.is_end:
        return message.at != task.progress_at
    is_later = task.progress_at is None or message.at > task.progress_at
    return is_later and message.bid == task.bid and not _is_ok(_move(message))


def _confirmed(message: Message[Report], task: Standing, now: dt.datetime) -> dict[str, Any]:
    """That the dock has taken the command is told by its first report too."""
    is_own = message.bid == task.bid
    return {
        "replied_at": task.replied_at or now,
        "taken_at": task.taken_at or (message.at if is_own else None),
    }


def _reopen(tasks: Iterable[Standing]) -> None:
    """Takes back the success of docks that go on."""
    pks = [task.pk for task in tasks if task.device_ok_at]
    if pks:
        UpgradeTask.objects.filter(pk__in=pks).update(device_ok_at=None)


def _columns(message: Message[Report], move: Move, now: dt.datetime) -> dict[str, Any]:
    data = message.data
    return {
        "percent": data.percent,
        "step": data.step or None,
        "rate": data.rate,
        "result": data.result,
        "message": lines.advice(data.result),
        "progress_at": message.at,
        "progress_seen_at": now,
        "device_ok_at": now if _is_ok(move) else None,
    }


def _move(message: Message[Report]) -> Move:
    """Where progress leads. A word that nobody knows means running, never success."""
    status, result = message.data.status, message.data.result or 0
    if status == TaskStatus.OK and not result:
        return Move(
            TaskStatus.VERIFYING, 0, "the dock reports success; its versions have to prove it"
        )
    if status == TaskStatus.OK:
        return Move(
            TaskStatus.FAILED, result, f"the dock reports success with {errors.advice(result)}"
        )
    if status in ENDS:
        return Move(ENDS[status], result, errors.advice(result) or f"the dock reports {status}")
    if status == TaskStatus.PAUSED:
        return Move(TaskStatus.PAUSED)
    return Move(TaskStatus.IN_PROGRESS)


def _apply_progress(moves: dict[Move, list[Standing]], now: dt.datetime) -> None:
    """Most reports lead to where their task is; only an end or a failure needs all of a task."""
    leading = {
        move: [task.pk for task in tasks if task.status in states.sources(move.target)]
        for move, tasks in moves.items()
    }
    tasks = UpgradeTask.objects.in_bulk({pk for pks in leading.values() for pk in pks})
    apply({move: [tasks[pk] for pk in pks] for move, pks in leading.items() if pks}, now)
    # What else may prove an upgrade is told by other messages.
    told_ok = [task.pk for move in moves if _is_ok(move) for task in moves[move]]
    if told_ok:
        proof.confirm(UpgradeTask.objects.filter(pk__in=told_ok), now)


def _is_ok(move: Move) -> bool:
    return move.target == TaskStatus.VERIFYING


def divide(messages: Reports) -> tuple[Reports, Reports]:
    """Events without a method: progress, and the rest. Flight tasks report in the same shape.

    Progress names a command of ours, or its dock has an upgrade that is open, somebody's or ours.
    """
    tasks = UpgradeTask.objects.filter(attempt__gt=0, bid__in={m.bid for m in messages if m.bid})
    named = set(tasks.values_list("bid", "gateway__sn"))
    opened = UpgradeTask.objects.open().filter(gateway__sn__in={m.sn for m in messages})
    busy = {*opened.values_list("gateway__sn", flat=True), *others.under_way()}

    def is_progress(message: Message[Report]) -> bool:
        output = message.data.output
        in_shape = output is not None and output.progress is not None
        return (message.bid, message.sn) in named or (in_shape and message.sn in busy)

    return [m for m in messages if is_progress(m)], [m for m in messages if not is_progress(m)]
