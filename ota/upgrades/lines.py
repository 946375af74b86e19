"""What the histories of tasks keep of the messages of docks: one line for each, however often it comes."""

import uuid
from collections.abc import Sequence

from database import bulk
from mqtt_bridge.envelope import Message
from ota import errors
from ota.messages import Report
from ota.models import TaskEvent, UpgradeTask
from ota.upgrades.standing import Matched, Standing

Replied = tuple[Message[Report], UpgradeTask]


def without_repeats(
    found: Sequence[Replied],
) -> list[Replied]:
    """Those that have not come before: a failure that comes twice must not end two attempts."""
    new = {message.digest: (message, task) for message, task in found}
    known = set(TaskEvent.objects.filter(key__in=new).values_list("key", flat=True))
    return [pair for key, pair in new.items() if uuid.UUID(key) not in known]


def write_replies(found: Sequence[Replied]) -> None:
    """A line for each reply; a repeated delivery has the same key and adds none."""
    if found:
        lines = _lines(found, TaskEvent.Kind.REPLY, [message.digest for message, _ in found])
        bulk.insert_columns(TaskEvent, lines, ignore_conflicts=True)


def write_progress(found: Sequence[Matched]) -> list[Matched]:
    """A line for each report; returns those that have not come before.

    A failure that comes twice must not end two attempts.
    """
    once = {pair[0].digest: pair for pair in found}
    keys, pairs = list(once), list(once.values())
    new = bulk.insert_new(TaskEvent, _lines(pairs, TaskEvent.Kind.PROGRESS, keys), "key")
    return [pair for key, pair in once.items() if key in new]


def mark_late(messages: Sequence[Message[Report]]) -> None:
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
    texts = {result: advice(result) for result in {data.result for data in told}}
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
        "text": [texts[data.result] for data in told],
    }


def advice(result: int | None) -> str:
    """What a result means, as it is kept."""
    return (errors.advice(result) or "")[:500]
