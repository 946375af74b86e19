"""What docks answer to the command."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable

from database import bulk
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message
from ota import errors, live
from ota.messages import Report
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import lines, moves, others, retries
from ota.upgrades.lines import Replied
from ota.upgrades.moves import ENDS, Move
from ota.upgrades.standing import Reports, is_revenant


def record(messages: Reports, now: dt.datetime) -> None:
    """Replies to ``ota_create``: taken, or not and why.

    Once a dock has taken the command, a refusal says nothing: it answers a repeated delivery.
    """
    tasks = _by_bid(messages)
    matched = [(m, tasks[m.bid, m.sn]) for m in messages if (m.bid, m.sn) in tasks]
    metrics.count("foreign_replies", len(messages) - len(matched))
    matched = lines.without_repeats(matched)
    lines.write_replies(matched)
    matched = [(message, task) for message, task in matched if not retries.is_resting(task)]
    found: defaultdict[Move, list[UpgradeTask]] = defaultdict(list)
    accepted = _accepted(matched, now)
    for message, task in matched:
        move = _answer(message, task)
        is_taken = task.pk in accepted or task.replied_at is not None
        if move and is_taken == (move.target in _RUNNING):
            found[move].append(task)
    # Commands of one chunk went out together.
    for sent_at, times in Counter(task.sent_at for _, task in matched if task.sent_at).items():
        metrics.observe("reply_seconds", (now - sent_at).total_seconds(), times)
    bulk.update(UpgradeTask, ("taken_at", "replied_at"), accepted)
    # It goes on with what was given up: nothing else may be sent to it now.
    late = [m for m, task in matched if is_revenant(m, task) and _is_yes(m, task)]
    others.record_taken(late, now)
    moves.apply(found, now, only_from=(TaskStatus.SENT, TaskStatus.PENDING))
    live.announce((task.rollout_id, task.pk) for _, task in matched)


_RUNNING = {TaskStatus.IN_PROGRESS}


def _accepted(found: Iterable[Replied], now: dt.datetime) -> dict[int, dict[str, dt.datetime]]:
    """By task, what is to be written: when its dock took the last of the commands that it took."""
    rows: dict[int, dict[str, dt.datetime]] = {}
    for message, task in found:
        if _is_acceptance(message, task):
            row = rows.setdefault(task.pk, {})
            known = row.get("taken_at") or task.taken_at or message.at
            if task.taken_at is None or task.replied_at is None or message.at > known:
                row |= {"taken_at": max(message.at, known), "replied_at": now}
    return rows


def _is_acceptance(message: Message[Report], task: UpgradeTask) -> bool:
    """Whether the dock took a command that came after the last failure."""
    return _is_of_last_attempt(message, task) and _is_yes(message, task)


def _is_yes(message: Message[Report], task: UpgradeTask) -> bool:
    """Whether the dock says that it took a command.

    "Already upgrading" after a command that nobody answered means that this command was taken.
    """
    data = message.data
    if data.result == errors.ALREADY_UPGRADING and retries.went_unanswered(task, message.tid):
        return True
    return data.result == 0 and data.status not in ENDS


def _is_of_last_attempt(message: Message[Report], task: UpgradeTask) -> bool:
    """Whether it answers the last command, or one that is no older than the last failure."""
    if not task.retries or message.tid == task.tid:
        return True
    if task.progress_at is not None and message.at > task.progress_at:
        return True
    return retries.is_after_last_failure(task, message.tid)  # a refusal is no progress


def _answer(message: Message[Report], task: UpgradeTask) -> Move | None:
    """Where a reply leads; None for nowhere: a word of an earlier attempt, or nothing readable."""
    data = message.data
    if _is_acceptance(message, task):
        is_running = data.status == "in_progress" or task.status == TaskStatus.PENDING
        return Move(TaskStatus.IN_PROGRESS) if is_running else None
    if message.tid != task.tid or (data.result is None and data.status not in ENDS):
        return None
    text = errors.advice(data.result) or f"the dock said {data.status}"
    return Move(ENDS.get(data.status, TaskStatus.REJECTED), data.result or 0, text)


def _by_bid(messages: Reports) -> dict[tuple[str, str], UpgradeTask]:
    """Tasks that were sent, by ``bid`` and their own dock: nobody else speaks about them.

    They are locked, so that two bridges do not overtake each other between look and write.
    """
    bids = {message.bid for message in messages if message.bid}
    found = UpgradeTask.objects.filter(bid__in=bids, attempt__gt=0).order_by("pk")
    locked = found.select_for_update(of=("self",)).select_related("gateway")
    return {(task.bid, task.gateway.sn): task for task in locked}
