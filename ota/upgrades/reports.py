"""What docks report about upgrades: replies to the command, and progress."""

import datetime as dt
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from mqtt_bridge import bulk, metrics
from mqtt_bridge.among import Question
from mqtt_bridge.envelope import Message, is_overtaken
from ota import errors, live, states
from ota.messages import Report
from ota.models import TaskEvent, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import others, proof, retries

Reports = Sequence[Message[Report]]


class Standing(NamedTuple):
    """What has to be known of a task to judge progress: read under a lock, many at a time.

    Its dock, ``bid`` and rollout never change; objects with all their fields cost five times as much.
    """

    pk: int
    sn: str
    bid: str
    rollout_id: int
    status: str
    retries: int
    replied_at: dt.datetime | None
    progress_at: dt.datetime | None
    progress_seen_at: dt.datetime | None
    device_ok_at: dt.datetime | None
    finished_at: dt.datetime | None


Matched = tuple[Message[Report], Standing]

# What docks say; the empty one is a missing one.
_STATUSES = {"", "sent", "in_progress", "paused", "ok", "failed", "rejected", "canceled", "timeout"}
_ENDS = {str(status): status for status in (*states.UNSUCCESSFUL, TaskStatus.CANCELED)}
_ALL_ENDS = {str(status) for status in states.TERMINAL}
_GIVEN_UP = states.TERMINAL - {TaskStatus.OK}


class Move(NamedTuple):
    """Where a report leads: the status, the result and why."""

    target: TaskStatus
    result: int | None = None
    text: str = ""


def record_replies(messages: Reports, now: dt.datetime) -> None:
    """Replies to ``ota_create``: taken, or not and why.

    Once a dock has taken the command, a refusal says nothing: it answers a repeated delivery.
    """
    tasks = _by_bid(messages)
    matched = [(m, tasks[m.bid, m.sn]) for m in messages if (m.bid, m.sn) in tasks]
    metrics.count("foreign_replies", len(messages) - len(matched))
    matched = _without_repeats(matched)
    _write_history(matched)
    matched = [(message, task) for message, task in matched if not retries.is_resting(task)]
    moves: defaultdict[Move, list[UpgradeTask]] = defaultdict(list)
    accepted = {task.pk for message, task in matched if _is_acceptance(message, task)}
    for message, task in matched:
        move = _answer(message, task)
        is_taken = task.pk in accepted or task.replied_at is not None
        if move and is_taken == (move.target in _RUNNING):
            moves[move].append(task)
    # Commands of one chunk went out together.
    for sent_at, times in Counter(task.sent_at for _, task in matched if task.sent_at).items():
        metrics.observe("reply_seconds", (now - sent_at).total_seconds(), times)
    UpgradeTask.objects.filter(pk__in=accepted, replied_at=None).update(replied_at=now)
    _apply(moves, now, only_from=(TaskStatus.SENT, TaskStatus.PENDING))
    live.announce((task.rollout_id, task.pk) for _, task in matched)


_RUNNING = {TaskStatus.IN_PROGRESS}


def _is_acceptance(message: Message[Report], task: UpgradeTask) -> bool:
    """Whether the dock took the command.

    "Already upgrading" after an attempt that nobody answered means that this attempt was taken.
    """
    data = message.data
    if data.result == errors.ALREADY_UPGRADING and retries.went_unanswered(task):
        return True
    return data.result == 0 and data.status not in _ENDS


def _answer(message: Message[Report], task: UpgradeTask) -> Move | None:
    """Where a reply leads; None for nowhere: a word of an earlier attempt, or nothing readable."""
    data = message.data
    if _is_acceptance(message, task):
        is_running = data.status == "in_progress" or task.status == TaskStatus.PENDING
        return Move(TaskStatus.IN_PROGRESS) if is_running else None
    if message.tid != task.tid or (data.result is None and data.status not in _ENDS):
        return None
    text = errors.advice(data.result) or f"the dock said {data.status}"
    return Move(_ENDS.get(data.status, TaskStatus.REJECTED), data.result or 0, text)


def record_progress(messages: Reports, now: dt.datetime) -> None:
    """``ota_progress`` of any dialect, in any order, any number of times.

    A batch that only tells how far upgrades have come costs three statements.
    """
    matched, foreign = _match(messages)
    matched = _write_progress(matched)
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
    for pk, found in reports.items():
        task = tasks[pk]
        new = _newer(task, found)
        if len(new) < len(found):
            late += [message for message in found if message not in new]
        if new:
            move = _move(new[-1])
            rows[pk] = _columns(new[-1], move, task, now)
            moves[move].append(task)
    _mark_late(late)
    bulk.update(UpgradeTask, _COLUMNS, rows)
    _apply_progress(moves, now)
    live.announce((tasks[pk].rollout_id, pk) for pk in rows)
    if said & _ALL_ENDS:
        ends = [(message, task) for message, task in matched if message.data.is_end]
        others.end(
            {(task.sn, bid) for message, task in ends for bid in ("", message.bid, task.bid)}, now
        )
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
    "device_ok_at",
)


def _newer(task: Standing, found: Reports) -> Reports:
    """The reports that say something new, oldest first: none after the end that a dock told."""
    if task.status in states.TERMINAL or task.device_ok_at:
        return []
    may_be_echo = retries.is_echo(task.retries, task.replied_at)  # until something of it was told
    new: list[Message[Report]] = []
    for message in sorted(found, key=lambda message: message.at):
        is_echo = may_be_echo and _move(message).target in _ENDS.values()
        if not is_echo and not is_overtaken(message, task.progress_at, task.progress_seen_at):
            new.append(message)
            may_be_echo = False
            if message.data.is_end:
                break
    return new


def _columns(
    message: Message[Report], move: Move, task: Standing, now: dt.datetime
) -> dict[str, Any]:
    data = message.data
    return {
        "percent": data.percent,
        "step": data.step or None,
        "rate": data.rate,
        "result": data.result,
        "message": _advice(data.result),
        "progress_at": message.at,
        "progress_seen_at": now,
        "replied_at": task.replied_at or now,
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
    if status in _ENDS:
        return Move(_ENDS[status], result, errors.advice(result) or f"the dock reports {status}")
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
    _apply({move: [tasks[pk] for pk in pks] for move, pks in leading.items() if pks}, now)
    # What else may prove an upgrade is told by other messages.
    told_ok = [task.pk for move in moves if _is_ok(move) for task in moves[move]]
    if told_ok:
        proof.confirm(UpgradeTask.objects.filter(pk__in=told_ok), now)


def _is_ok(move: Move) -> bool:
    return move.target == TaskStatus.VERIFYING


def _apply(
    moves: dict[Move, list[UpgradeTask]],
    now: dt.datetime,
    only_from: Iterable[TaskStatus] | None = None,
) -> None:
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


def _by_bid(messages: Reports) -> dict[tuple[str, str], UpgradeTask]:
    """Tasks that were sent, by ``bid`` and their own dock: nobody else speaks about them.

    They are locked, so that two bridges do not overtake each other between look and write.
    """
    bids = {message.bid for message in messages if message.bid}
    found = UpgradeTask.objects.filter(bid__in=bids, attempt__gt=0).order_by("pk")
    locked = found.select_for_update(of=("self",)).select_related("gateway")
    return {(task.bid, task.gateway.sn): task for task in locked}


def _match(messages: Reports) -> tuple[list[Matched], Reports]:
    """Each message with its task: by ``bid``, else the dock's one open task that it has taken.

    The rest belongs to upgrades that are not ours.
    """
    bids = {message.bid for message in messages if message.bid}
    found = [Standing(*values) for values in _OF_BIDS.rows(bids)]
    by_bid = {(task.bid, task.sn): task for task in found}
    by_sn = _taken([message for message in messages if (message.bid, message.sn) not in by_bid])
    matched, foreign = [], []
    for message in messages:
        task = by_bid.get((message.bid, message.sn)) or by_sn.get(message.sn)
        if task is None or _is_revenant(message, task):
            foreign.append(message)
        else:
            matched.append((message, task))
    return matched, foreign


def _taken(messages: Reports) -> dict[str, Standing]:
    """By their dock, the open tasks that docks have taken and may tell of without our ``bid``."""
    if not messages:
        return {}
    taken = UpgradeTask.objects.in_flight().filter(gateway__sn__in={m.sn for m in messages})
    unnamed = {message.sn for message in messages if not message.bid}
    taken = taken.filter(Q(replied_at__isnull=False) | Q(gateway__sn__in=unnamed))
    return {task.sn: task for task in (Standing(*values) for values in _standing(taken))}


def _standing(tasks: QuerySet[UpgradeTask]) -> QuerySet[UpgradeTask, Any]:
    """How the tasks stand, locked: two bridges must not overtake each other between look and write."""
    names = ("pk", "gateway__sn", *Standing._fields[2:])
    return tasks.order_by("pk").select_for_update(of=("self",)).values_list(*names)


_OF_BIDS = Question(
    lambda bids: _standing(UpgradeTask.objects.filter(bid__among=bids, attempt__gt=0))
)


def _without_repeats(
    found: Sequence[tuple[Message[Report], UpgradeTask]],
) -> list[tuple[Message[Report], UpgradeTask]]:
    """Those that have not come before: a failure that comes twice must not end two attempts."""
    new = {message.digest: (message, task) for message, task in found}
    known = set(TaskEvent.objects.filter(key__in=new).values_list("key", flat=True))
    return [pair for key, pair in new.items() if uuid.UUID(key) not in known]


def _is_revenant(message: Message[Report], task: Standing) -> bool:
    """A dock goes on with a command that we had given up: nothing else may be sent to it now."""
    given_up = task.status in _GIVEN_UP and task.finished_at
    is_new = task.progress_at is None or message.at > task.progress_at
    return bool(given_up and message.received_at > given_up and is_new and not message.data.is_end)


def _write_history(found: Sequence[tuple[Message[Report], UpgradeTask]]) -> None:
    """A line for each reply; a repeated delivery has the same key and adds none."""
    if found:
        lines = _lines(found, TaskEvent.Kind.REPLY, [message.digest for message, _ in found])
        bulk.insert_columns(TaskEvent, lines, ignore_conflicts=True)


def _write_progress(found: Sequence[Matched]) -> list[Matched]:
    """A line for each report; returns those that have not come before.

    A failure that comes twice must not end two attempts.
    """
    once = {pair[0].digest: pair for pair in found}
    keys, pairs = list(once), list(once.values())
    new = bulk.insert_new(TaskEvent, _lines(pairs, TaskEvent.Kind.PROGRESS, keys), "key")
    return [pair for key, pair in once.items() if key in new]


def _mark_late(messages: Reports) -> None:
    """What came after a newer report, or after the end; rare."""
    if messages:
        keys = [message.digest for message in messages]
        TaskEvent.objects.filter(key__in=keys).update(is_late=True)


def _lines(
    found: Sequence[tuple[Message[Report], Standing | UpgradeTask]],
    kind: TaskEvent.Kind,
    keys: Sequence[str],
) -> bulk.Columns:
    """What the history says of each message; in columns, as it is written."""
    messages = [message for message, _ in found]
    told = [message.data for message in messages]
    advice = {result: _advice(result) for result in {data.result for data in told}}
    return {
        "task_id": [task.pk for _, task in found],
        "at": [message.received_at for message in messages],
        "kind": [kind] * len(found),
        "key": keys,
        "reported_at": [message.at for message in messages],
        "tid": [message.tid for message in messages],
        "bid": [message.bid for message in messages],
        "device_status": [data.status for data in told],
        "percent": [data.percent for data in told],
        "step": [data.step for data in told],
        "rate": [data.rate for data in told],
        "result": [data.result for data in told],
        "text": [advice[data.result] for data in told],
    }


def _advice(result: int | None) -> str:
    return (errors.advice(result) or "")[:500]


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
