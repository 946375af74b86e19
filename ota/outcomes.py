"""What became of a rollout, for its report: counts, durations, failures with reasons, device by device."""

import datetime as dt
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db.models import Count, Max, Min, QuerySet

from console import sheets
from ota import errors, states
from ota.models import Rollout, UpgradeTarget
from ota.states import TaskStatus

REASONS = 50  # that the page lists; the table of devices has all


class Failure(NamedTuple):
    """Upgrades that ended without success for one reason."""

    status: str
    reason: str
    tasks: int


class Durations(NamedTuple):
    """How long proven upgrades took, from the last command to the last proof."""

    shortest: dt.timedelta
    median: dt.timedelta
    longest: dt.timedelta


class Outcome(NamedTuple):
    """What became of one device in one task."""

    dock: str
    site: str
    wave: int
    device: str
    model: str
    from_version: str
    to_version: str
    how: str
    status: str
    reason: str
    sent_at: dt.datetime | None
    proven_at: dt.datetime | None
    attempts: int
    is_retried: bool

    @property
    def took(self) -> dt.timedelta | None:
        """From the last command to the proof."""
        if self.sent_at is None or self.proven_at is None:
            return None
        return whole(self.proven_at - self.sent_at)


def whole(found: dt.timedelta) -> dt.timedelta:
    """In whole seconds."""
    return dt.timedelta(seconds=round(found.total_seconds()))


class Extent(NamedTuple):
    """How many devices a rollout has, and the keys of the first and of the last."""

    devices: int
    first: int | None
    last: int | None


def extent(rollout: Rollout) -> Extent:
    """Two queries: without the ends of its tasks a database may read the devices of all rollouts."""
    tasks = rollout.tasks.order_by().aggregate(first=Min("pk"), last=Max("pk"))
    ends = {"task__gte": tasks["first"] or 0, "task__lte": tasks["last"] or 0}
    found = UpgradeTarget.objects.filter(task__rollout=rollout, **ends)
    return Extent(**found.aggregate(devices=Count("*"), first=Min("pk"), last=Max("pk")))


def targets(rollout: Rollout, among: Extent) -> QuerySet[UpgradeTarget]:
    """The rows of a report in the order in which the upgrades were planned.

    Without the keys between which they lie a database may look for them among those of all rollouts.
    """
    found = UpgradeTarget.objects.filter(task__rollout=rollout).order_by("pk")
    found = found.filter(pk__gte=among.first or 0, pk__lte=among.last or 0)
    return found.select_related(
        "task__gateway__site", "task__wave", "task__retried_as", "device__model"
    )


def of(target: UpgradeTarget) -> Outcome:
    """In words; the target comes from ``targets``."""
    task = target.task
    failed = task.status in states.UNSUCCESSFUL or task.status == TaskStatus.CANCELED
    return Outcome(
        dock=task.gateway.sn,
        site=task.gateway.site.name if task.gateway.site else "",
        wave=task.wave.number,
        device=target.device.sn,
        model=target.device.model.name if target.device.model else "",
        from_version=target.from_version,
        to_version=target.to_version,
        how=target.how,
        status=task.get_status_display(),
        reason=(task.message or task.advice or "") if failed else "",
        sent_at=task.sent_at,
        proven_at=target.confirmed_at,
        attempts=task.attempt,
        is_retried=getattr(task, "retried_as", None) is not None,
    )


def failures(rollout: Rollout) -> list[Failure]:
    """Why upgrades ended without success, the most frequent reason first; one query."""
    tasks = rollout.tasks.filter(status__in=states.UNSUCCESSFUL).order_by()
    found: Counter[tuple[str, str]] = Counter()
    rows = tasks.values_list("status", "message", "result").annotate(tasks=Count("pk"))
    for status, text, result, number in rows:
        reason = text or errors.advice(result) or "no reason given"
        found[TaskStatus(status).label, reason] += number
    return [Failure(*each, number) for each, number in found.most_common(REASONS)]


def durations(rollout: Rollout) -> Durations | None:
    """None where nothing is proven yet; one query."""
    proven = rollout.tasks.filter(status=TaskStatus.OK, sent_at__isnull=False)
    times = proven.order_by().values_list("sent_at", "finished_at")
    seconds = [(end - start).total_seconds() for start, end in times if start and end]
    if not seconds:
        return None
    found = min(seconds), statistics.median(seconds), max(seconds)
    return Durations(*(whole(dt.timedelta(seconds=each)) for each in found))


# As a table for other programs

COLUMNS = (
    *("dock", "site", "wave", "device", "model", "from_version", "to_version", "how", "status"),
    *("reason", "sent_at", "proven_at", "proof_seconds", "attempts", "retried"),
)


def as_csv(rollout: Rollout) -> Iterator[str]:
    """The report of all devices in pieces of some rows; a query for each piece, and one before them."""
    yield sheets.lines([COLUMNS])
    among = extent(rollout)
    last = 0
    while rows := list(targets(rollout, among).filter(pk__gt=last)[: sheets.PIECE]):
        yield sheets.lines([_cells(of(target)) for target in rows])
        last = rows[-1].pk


def _cells(found: Outcome) -> list[Any]:
    row = found._asdict()
    seconds = int(found.took.total_seconds()) if found.took is not None else None
    row |= {"proof_seconds": seconds, "retried": "yes" if found.is_retried else "no"}
    return [row[name] for name in COLUMNS]
