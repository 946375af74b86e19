"""Which task a report is about, and how that task stands."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from database.among import Question
from mqtt_bridge.envelope import Message
from ota import states
from ota.messages import Report
from ota.models import TaskEvent, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades.order import Word

Reports = Sequence[Message[Report]]


class Standing(NamedTuple):
    """What has to be known of a task to judge progress: read under a lock, many at a time.

    Its dock, ``bid`` and rollout never change; objects with all their fields cost five times as much.
    """

    pk: int
    sn: str
    topology_at: dt.datetime | None
    topology_seen_at: dt.datetime | None
    bid: str
    rollout_id: int
    status: str
    retries: int
    sent_at: dt.datetime | None
    replied_at: dt.datetime | None
    taken_at: dt.datetime | None
    progress_at: dt.datetime | None
    progress_seen_at: dt.datetime | None
    device_ok_at: dt.datetime | None
    finished_at: dt.datetime | None

    @property
    def start(self) -> Word:
        """The dock's last topology."""
        return Word(self.topology_at, self.topology_seen_at)

    @property
    def last(self) -> Word:
        """What the dock last reported of this task, in whichever attempt."""
        return Word(self.progress_at, self.progress_seen_at)

    def began(self, bid: str) -> Word:
        """From when on a report with this ``bid`` can be one of the last attempt.

        From when the dock took its command. Where it never said that, from when the command was
        sent, by our clock: then a dock with a slow clock is not heard, and its versions decide. The first
        attempt has no other before it with its ``bid``.
        """
        is_first = bid == self.bid and not self.retries
        return Word(self.taken_at or (None if is_first else self.sent_at), self.replied_at)


Matched = tuple[Message[Report], Standing]

_GIVEN_UP = states.TERMINAL - {TaskStatus.OK}


def match(messages: Reports) -> tuple[list[Matched], Reports]:
    """Each message with its task: by ``bid``, else the dock's one open task that it has taken.

    The rest belongs to upgrades that are not ours.
    """
    bids = {message.bid for message in messages if message.bid}
    found = [Standing(*values) for values in _OF_BIDS.rows(bids)]
    by_bid = {(task.bid, task.sn): task for task in found}
    by_sn = _taken([message for message in messages if (message.bid, message.sn) not in by_bid])
    matched, foreign, revenants = [], [], []
    for message in messages:
        task = by_bid.get((message.bid, message.sn)) or by_sn.get(message.sn)
        if task is None:
            foreign.append(message)
        elif not message.data.is_end and is_revenant(message, task):
            revenants.append((message, task))
        else:
            matched.append((message, task))
    known = _known([message for message, _ in revenants])
    foreign += [message for message, _ in revenants if message.digest not in known]
    return matched, foreign


def _known(messages: Reports) -> set[str]:
    """The digests of those that came before the end too: the broker sends them again."""
    if not messages:
        return set()
    lines = TaskEvent.objects.filter(key__in={message.digest for message in messages})
    return {key.hex for key in lines.values_list("key", flat=True) if key}


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
    of_dock = ("gateway__sn", "gateway__topology_at", "gateway__topology_seen_at")
    names = ("pk", *of_dock, *Standing._fields[1 + len(of_dock) :])
    return tasks.order_by("pk").select_for_update(of=("self",)).values_list(*names)


_OF_BIDS = Question(
    lambda bids: _standing(UpgradeTask.objects.filter(bid__among=bids, attempt__gt=0))
)


def is_revenant(message: Message[Report], task: Standing | UpgradeTask) -> bool:
    """A dock goes on with a command that we had given up: nothing else may be sent to it now."""
    given_up = task.status in _GIVEN_UP and task.finished_at
    is_new = task.progress_at is None or message.at > task.progress_at
    return bool(given_up and message.received_at > given_up and is_new)
