"""What a browser shows of a rollout: its counts, and its tasks as rows in words."""

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Count
from django.urls import reverse
from django.utils import timezone
from django.utils.text import capfirst

from console.counts import count
from console.sizes import shown_size
from ota import downloads, rollouts, states, status
from ota.models import Rollout, UpgradeTarget, UpgradeTask, Wave
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.moments import moment
from ota.rollouts import Standing
from ota.states import TaskStatus
from ota.upgrades import retries

PAGE = 50  # tasks

Row = dict[str, Any]
Counts = dict[str, int]


class Filter(NamedTuple):
    """A choice of tasks by their status."""

    key: str
    label: str
    statuses: frozenset[TaskStatus]


FILTERS = {
    found.key: found
    for found in (
        Filter("", "All", frozenset(TaskStatus)),
        Filter("in_flight", "In flight", states.IN_FLIGHT),
        Filter("unsuccessful", "Unsuccessful", states.UNSUCCESSFUL),
        *(Filter(one.value, one.label, frozenset({one})) for one in TaskStatus),
    )
}

# The parts of a rollout's bar, from what is done to what has not begun.
PARTS = (
    ("success", "proven", frozenset({TaskStatus.OK})),
    ("danger", "unsuccessful", states.UNSUCCESSFUL),
    ("info", "in flight", states.IN_FLIGHT),
    ("canceled", "canceled", frozenset({TaskStatus.CANCELED})),
    ("waiting", "pending", frozenset({TaskStatus.PENDING})),
)

_STEPS = {"download_firmware": "Download", "upgrade_firmware": "Upgrade"}


class View(NamedTuple):
    """Which tasks of a rollout a browser shows: a page of a filter, or a single task."""

    status: str = ""
    page: int = 1
    task: int = 0

    @property
    def statuses(self) -> frozenset[TaskStatus]:
        return FILTERS[self.status].statuses


class State(NamedTuple):
    """What to tell a browser, and the keys of the tasks that it shows from then on."""

    document: dict[str, Any]
    shown: tuple[int, ...]


def view(values: dict[str, Any]) -> View:
    """The view that a query string or a message names.

    Raises:
        ValueError: a filter that does not exist, or a page or task that is no positive number.
    """
    chosen = values.get("status", "")
    if not isinstance(chosen, str) or chosen not in FILTERS:
        raise ValueError("unknown status")
    return View(chosen, _number(values.get("page", 1)), _number(values.get("task", 0), least=0))


def _number(value: Any, least: int = 1) -> int:
    # More digits than a database's integer takes are no page either.
    if isinstance(value, bool) or not str(value).isdecimal() or len(str(value)) > 9:
        raise ValueError("not a number")
    if int(value) < least:
        raise ValueError(f"must be at least {least}")
    return int(value)


def counts(rollouts: Sequence[Rollout]) -> dict[int, Counts]:
    """How many tasks of each of many rollouts have which status, without those that were retried.

    Those that have ended know how many they are in all; two queries.
    """
    none = dict.fromkeys(map(str, TaskStatus), 0)
    found = {one.pk: none | _final(one) for one in rollouts}
    going = [one for one in rollouts if not one.finished_at]
    for pk, word, number in _by_rollout(UpgradeTask.objects.filter(rollout__in=going)):
        found[pk][word] = number
    # From the retries, which are few, to what they try again.
    counted = [*going, *filter(_final, rollouts)]
    again = UpgradeTask.objects.filter(retry_of__isnull=False, retry_of__rollout__in=counted)
    for pk, word, number in _by_rollout(again, "retry_of__"):
        found[pk][word] -= number
    return found


def _by_rollout(tasks: UpgradeTaskQuerySet, of: str = "") -> Iterable[tuple[int, str, int]]:
    names = tasks.order_by().values_list(f"{of}rollout", f"{of}status")
    return names.annotate(Count("pk"))


def _final(rollout: Rollout) -> Counts:
    return rollout.final_counts or {} if rollout.finished_at else {}


def total(found: Counts, statuses: Iterable[TaskStatus]) -> int:
    return sum(found[one] for one in statuses)


def summary(found: Counts, retried: int = 0) -> str:
    """The share of proven tasks in words; 100 % only when each is that was not retried."""
    tasks = sum(found.values())
    if not tasks:
        return "No tasks"
    proven = found[TaskStatus.OK]
    share = f"{proven:,} of {tasks:,} proven ({100 * proven // tasks} %)"
    if not retried:
        return share
    return f"{share}; {count(retried, 'earlier failure was', 'earlier failures were')} retried"


def full(rollout_id: int, wanted: View) -> State:
    """All of a view; a handful of queries, whatever the number of tasks.

    Raises:
        Rollout.DoesNotExist: there is no such rollout.
    """
    overview = _Overview(rollout_id, wanted)
    return overview.state(overview.keys())


def changes(
    rollout_id: int, wanted: View, shown: tuple[int, ...], changed: frozenset[int]
) -> State:
    """Those rows of a view that changed; all of it if other tasks stand there by now."""
    overview = _Overview(rollout_id, wanted)
    # Without a filter they stay the same, but for what is planned again.
    may_differ = wanted.status or not changed.issubset(shown)
    if may_differ and shown != (now := overview.keys()):
        return overview.state(now)
    rows = overview.rows(changed.intersection(shown))
    return State({"type": "changes"} | overview.document() | {"tasks": rows}, shown)


class _Overview:
    """A rollout and its counts, read once; what else is told of it costs a handful of queries."""

    def __init__(self, rollout_id: int, wanted: View) -> None:
        self.rollout = Rollout.objects.get(pk=rollout_id)
        self.tally = status.tally(self.rollout)
        self.wanted = wanted
        self.pages = max(1, -(-total(self.tally.all, wanted.statuses) // PAGE))
        self.page = min(wanted.page, self.pages)

    def state(self, keys: tuple[int, ...]) -> State:
        """All of the view, whose tasks have these keys."""
        place = {"type": "page", "status": self.wanted.status, "page": self.page}
        return State(place | self.document() | {"tasks": self.rows(keys)}, keys)

    def document(self) -> dict[str, Any]:
        return {
            "rollout": {
                "status": self.rollout.status,
                "status_label": self.rollout.get_status_display(),
                "colour": states.COLOURS.get(self.rollout.status, ""),
                "summary": summary(self.tally.current, self.tally.retried),
                "pause_reason": status.pause_reason(self.rollout) or "",
            },
            "counts": self.tally.all,
            "shares": self.tally.current,
            "pages": self.pages,
            "waves": of_waves(self.rollout),
            "stamp": self._stamp(),
        }

    def _stamp(self) -> str:
        """Differs when something happened that is told only by the whole page."""
        newest = self.rollout.events.order_by("-pk").values_list("pk", flat=True).first()
        attention = self.rollout.tasks.needing_attention().count()
        return f"{self.rollout.status} {newest} {attention}"

    def keys(self) -> tuple[int, ...]:
        """Those of the page's tasks, in the order in which they are issued.

        On their own, because what tasks refer to would be read for all pages before as well.
        """
        found = self.rollout.tasks.order_by("pk").values_list("pk", flat=True)
        if self.wanted.task:
            return tuple(found.filter(pk=self.wanted.task))
        if self.wanted.status:
            found = found.filter(status__in=self.wanted.statuses)
        return tuple(found[(self.page - 1) * PAGE : self.page * PAGE])

    def rows(self, keys: Collection[int]) -> list[Row]:
        if not keys:
            return []
        found = UpgradeTask.objects.filter(pk__in=keys).order_by("pk")
        found = found.select_related("gateway", "wave", "retried_as")
        found = found.prefetch_related("targets__device", "downloads__package")
        return in_words(list(found), self.rollout)


def of_waves(rollout: Rollout) -> list[Row]:
    """A rollout's waves in their order, in words; two queries."""
    found = rollouts.standings([rollout.pk])
    rows: list[Row] = []
    before: tuple[Wave, Standing] | None = None
    for wave in rollout.wave_set.order_by("number"):
        standing = found.get(wave.pk, Standing())
        rows.append(
            {
                "number": wave.number,
                "title": wave.title,
                "tasks": standing.tasks,
                "proven": standing.proven,
                "failed": standing.finished - standing.proven,
                "is_open": wave.opened_at is not None,
                "says": _stand(rollout, wave, before),
            }
        )
        before = wave, standing
    return rows


def _stand(rollout: Rollout, wave: Wave, before: tuple[Wave, Standing] | None) -> str:
    """Since when a wave is open, or what it waits for."""
    if wave.opened_at:
        return f"open since {moment(wave.opened_at)}"
    if rollout.status not in states.UNFINISHED:
        return "was never opened"
    if before and before[0].opened_at is None:
        return f"comes after wave {before[0].number}"
    if rollout.status == Rollout.Status.PAUSED:
        return "waits until the rollout is resumed"
    return _gate(rollout, *before) if before else _beginning(rollout)


def _beginning(rollout: Rollout) -> str:
    if rollout.status == Rollout.Status.NEEDS_APPROVAL:
        return "waits for approval"
    if rollout.starts_at and rollout.starts_at > timezone.now():
        return f"opens on {moment(rollout.starts_at)}"
    return "opens at once"


def _gate(rollout: Rollout, last: Wave, standing: Standing) -> str:
    if standing.proves_nothing:
        return f"waits for a click: {rollouts.nothing_proven(last, standing)}"
    if last.met_at and rollout.asks_between_waves:
        return "waits for a click"
    if last.met_at:
        opens = last.met_at + dt.timedelta(minutes=rollout.soak_minutes)
        return f"opens on {moment(opens)}"
    running = standing.tasks - standing.finished - standing.canceled
    if standing.is_under_way or not standing.finished:
        return f"waits for wave {last.number}: {running:,} of {standing.tasks:,} are not finished"
    share = 100 * standing.proven // standing.finished
    return (
        f"waits for wave {last.number}: {share} % of the finished are proven, {last.gate} % must be"
    )


def in_words(tasks: Sequence[UpgradeTask], rollout: Rollout) -> list[Row]:
    """A rollout's tasks as rows: what scripts get of them too, and the words that people read.

    Their ``gateway``, ``retried_as``, ``targets__device`` and ``downloads__package`` have been fetched.
    """
    documents = zip(tasks, status.of_tasks(tasks, rollout), strict=True)
    return [_row(task, document, rollout) for task, document in documents]


def _row(task: UpgradeTask, document: status.Document, rollout: Rollout) -> Row:
    targets = zip(task.targets.all(), document["targets"], strict=True)
    return document | {
        "id": task.pk,
        "url": reverse("admin:ota_upgradetask_change", args=[task.pk]),
        "gateway_name": task.gateway.callsign,
        "gateway_url": reverse("admin:fleet_device_change", args=[task.gateway_id]),
        "status_label": _label(task),
        "colour": states.COLOURS.get(task.status, ""),
        "progress": progress(task),
        "note": note(task, rollout),
        "targets": [target_row | _target(target) for target, target_row in targets],
    }


def _label(task: UpgradeTask) -> str:
    retry = ", retried" if getattr(task, "retried_as", None) else ""
    return f"{task.get_status_display()}{retry}"


def _target(target: UpgradeTarget) -> Row:
    return {"type_label": target.how, "proof": _proof(target)}


def _proof(target: UpgradeTarget) -> str:
    if target.is_confirmed:
        return "Proven"
    return f"reports {target.reported_version}" if target.reported_version else ""


def progress(task: UpgradeTask) -> str:
    """Percent, step and rate in words; the rate only while something moves.

    While the dock reports no percent, what it has fetched from us takes the place.
    """
    is_moving = task.status == TaskStatus.IN_PROGRESS
    if task.percent is None and (is_moving or task.status == TaskStatus.SENT):
        fetched = max(task.downloads.all(), key=lambda found: found.last_at, default=None)
        if fetched:
            return f"downloading, {downloads.percent(fetched)} %"
    parts = [
        "" if task.percent is None else f"{task.percent} %",
        step(task.step) if task.status != TaskStatus.OK else "",
        rate(task.rate) if is_moving else "",
    ]
    return " · ".join(part for part in parts if part)


def step(raw: str) -> str:
    """The step in words, or as the device names it."""
    return _STEPS.get(raw, raw)


def rate(found: int | None) -> str:
    """Bytes a second in words."""
    return f"{shown_size(found)}/s" if found else ""


_EXPECTED = {
    TaskStatus.SENT: "Waits for the dock's answer",
    TaskStatus.VERIFYING: "Waits until the devices report their new versions",
}


def note(task: UpgradeTask, rollout: Rollout) -> str:
    """What a task waits for, or what the device or a limit of time said about it."""
    if task.status == TaskStatus.PENDING:
        return _waiting(task, rollout) + _failure(task)
    if task.no_show_at and task.status in (TaskStatus.SENT, TaskStatus.IN_PROGRESS):
        return capfirst(downloads.absence())
    return task.message or task.advice or _EXPECTED.get(TaskStatus(task.status), "")


def _failure(task: UpgradeTask) -> str:
    """Why a task waits that was tried already: what made the last attempt fail."""
    said = task.message or task.advice
    return f". The last attempt failed: {said}" if said and retries.is_resting(task) else ""


_HELD_BACK: dict[str, str] = {
    Rollout.Status.NEEDS_APPROVAL: "the rollout needs approval",
}


def _waiting(task: UpgradeTask, rollout: Rollout) -> str:
    if rollout.status == Rollout.Status.PAUSED:
        return "Not issued while the rollout is paused"
    if rollout.status != Rollout.Status.RUNNING:
        return f"Not issued: {_HELD_BACK.get(rollout.status, 'the rollout does not run any more')}"
    if task.wave.opened_at is None:
        return _opening(task, rollout)
    if task.waits_for:
        return "Waits: " + "; ".join(reason["text"] for reason in task.waits_for)
    if task.is_ready:
        return f"Ready, waits for a free slot: {_limits(task, rollout)}"
    return "Not looked at yet"


def _limits(task: UpgradeTask, rollout: Rollout) -> str:
    """All that may hold a task that is ready; which one does changes from one moment to the next."""
    parts = [f"at most {rollout.limit_in_flight:,} at once"]
    if rollout.limit_per_site is not None and task.gateway.site_id:
        parts.append(f"{rollout.limit_per_site:,} of a site")
    if settings.SYSTEM_LIMIT_IN_FLIGHT:
        parts.append(f"{settings.SYSTEM_LIMIT_IN_FLIGHT:,} of all rollouts")
    return ", ".join(parts)


def _opening(task: UpgradeTask, rollout: Rollout) -> str:
    """When the task's wave opens: a wave that is closed waits for the start, or for the one before."""
    if rollout.starts_at and rollout.starts_at > timezone.now():
        return f"Waits for the start, {moment(rollout.starts_at)}"
    return f"Waits for wave {task.wave.number} to open"
