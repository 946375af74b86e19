"""What the preview of a rollout shows: counts first, then bounded tables of the plan."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.safestring import SafeString

from fleet.models import Device
from ota import needs, notes, terms
from ota.models import Rollout
from ota.needs import NAMED, Need
from ota.rollouts import Excluded, Options, Plan, PlannedTarget, PlannedTask, PlannedWave
from ota.upgrades import hours

SHOWN = 200  # rows of each table; with 5,000 devices the counts tell the rest

# Headings; the reasons themselves tell the details of each device.
_TITLES = {
    "bridge_down": "Bridge not listening",
    "offline": "Dock offline",
    "settling": "Dock just came online",
    "mode_unknown": "Dock's mode unknown",
    "busy": "Dock busy",
    "flight_task": "Flight task",
    "emergency_stop": "Emergency stop pressed",
    "4g_enhanced": "4G enhanced transmission on",
    "foreign_upgrade": "Upgraded by somebody else",
    "aircraft_unknown": "Aircraft's place unknown",
    "aircraft_out": "Aircraft not in its dock",
    "other_aircraft": "Another aircraft in the dock",
    "not_paired": "Not paired",
    "battery_unknown": "Battery unknown",
    "low_battery": "Low battery",
    "aircraft_busy": "Aircraft busy",
    "hours": "Outside the hours",
    "no_hours": "No hours at its site",
    "storage_full": "Dock's storage full",
    "unknown_model": "Model not known yet",
    "not_behind_dock": "Not behind a dock",
    "unclaimed": "Not claimed by an organization",
    "other_organization": "Dock of another organization",
    "no_package": "No package in the library",
    "version_unknown": "Version not reported yet",
    "up_to_date": "Up to date",
    "downgrade": "Newer than the target",
    "needs_first": "Another version first",
    "open_task": "Another upgrade is open",
}


# Whoever is left out for one of these is as new as the target; for any other it may need an upgrade.
_NEEDS_NOTHING = {"up_to_date", "downgrade"}


class Table(NamedTuple):
    """The first rows of something, and how much there is in all."""

    rows: Sequence[Any]
    docks: int
    devices: int

    @property
    def more(self) -> int:
        return self.docks - len(self.rows)


class Group(NamedTuple):
    """Devices that are left out for one reason."""

    title: str
    rows: Sequence[Excluded]
    devices: int

    @property
    def more(self) -> int:
        return self.devices - len(self.rows)


class Split(NamedTuple):
    """Docks of which one half goes while the other is left out, and one of these as an example."""

    docks: int
    dock: Device
    left_out: Excluded


class Preview(NamedTuple):
    """A plan as the page shows it."""

    ready: Table
    waiting: Table
    waits_for: list[tuple[str, int]]
    left_out: list[Group]
    left_out_count: int
    split: Split | None
    downgrades: int
    notes: list[tuple[str, SafeString]]
    waves: Sequence[PlannedWave]
    begins: str
    too_late: int
    needs_approval: bool
    stays_open: str

    @property
    def docks(self) -> int:
        return self.ready.docks + self.waiting.docks

    @property
    def devices(self) -> int:
        return self.ready.devices + self.waiting.devices


def of(plan: Plan, options: Options, now: dt.datetime) -> Preview:
    waiting = [task for task in plan.tasks if task.waits_for]
    reasons = Counter(_title(reason.code) for task in waiting for reason in task.waits_for)
    return Preview(
        ready=_table([task for task in plan.tasks if not task.waits_for]),
        waiting=_table(waiting),
        waits_for=reasons.most_common(),
        left_out=_groups(plan.excluded),
        left_out_count=len(plan.excluded),
        split=_split(plan),
        downgrades=sum(target.is_downgrade for task in plan.tasks for target in task.targets),
        notes=_notes(plan),
        waves=plan.waves,
        begins=_begins(plan, max(options.starts_at or now, now), now),
        too_late=plan.too_late,
        needs_approval=plan.needs_approval,
        stays_open=_stays_open(plan, options),
    )


def _begins(plan: Plan, starts_at: dt.datetime, now: dt.datetime) -> str:
    """When the first command may go, in words; empty if at once."""
    policy = Rollout(**plan.policy)
    # Of all docks with one clock one will do.
    first = {hours.clock(dock): dock for dock in (t.gateway for t in plan.tasks if t.wave == 1)}
    found = ((hours.begins(policy, dock, starts_at), dock) for dock in first.values())
    opens = [(at, dock) for at, dock in found if at]
    at, dock = min(opens, key=lambda each: each[0], default=(now, None))
    if at <= now or dock is None:
        return ""
    return (
        f"{timezone.localtime(at):%a %Y-%m-%d %H:%M %Z}"
        if at == starts_at
        else hours.shown(dock, at)
    )


def _split(plan: Plan) -> Split | None:
    """Docks that go without their aircraft, or the other way round, although both should."""
    goes = {task.gateway.pk: task.gateway for task in plan.tasks}
    stays: dict[int, Excluded] = {}
    for left_out in plan.excluded:
        dock = needs.gateway_of(left_out.device)
        if dock and dock.pk in goes and left_out.reason.code not in _NEEDS_NOTHING:
            stays.setdefault(dock.pk, left_out)
    if not stays:
        return None
    first = next(pk for pk in goes if pk in stays)
    return Split(len(stays), goes[first], stays[first])


def _stays_open(plan: Plan, options: Options) -> str:
    """Who may join later, with what, in words; empty if nobody."""
    if not plan.stays_open:
        return ""
    for criterion in options.criteria:
        criterion.with_aircraft = options.with_aircraft
    return terms.joining(options.criteria, plan.offers, options.deadline_at, options.rest_of)


def _notes(plan: Plan) -> list[tuple[str, SafeString]]:
    """The release notes of what would be installed, newest first, each with its package."""
    found = {target.package for task in plan.tasks for target in task.targets}
    ordered = sorted(found, key=lambda package: (-package.version_number, package.file_name))
    return [(str(package), notes.as_html(package.notes)) for package in ordered if package.notes]


def how(target: PlannedTarget) -> str:
    """Which kind of upgrade it is, in words."""
    return "Downgrade" if target.is_downgrade else str(target.upgrade_type.label)


def forgotten_aircraft(chosen: QuerySet[Device]) -> int:
    """How many aircraft behind the chosen docks need an upgrade and are not chosen."""
    keys = list(chosen.order_by().values_list("pk", flat=True)[: NAMED + 1])
    if len(keys) <= NAMED:
        aircraft = Device.objects.filter(gateway__among=keys).exclude(pk__among=keys)
    else:
        pks = chosen.values("pk")
        aircraft = Device.objects.filter(gateway__in=pks).exclude(pk__in=pks)
    wanting = {Need.REGULAR, Need.CONSISTENCY}
    return sum(c.devices for c in needs.combinations(aircraft) if c.need in wanting)


def _table(tasks: Sequence[PlannedTask]) -> Table:
    rows = [(task, list(map(_row, task.targets))) for task in islice(tasks, SHOWN)]
    return Table(rows, len(tasks), sum(len(task.targets) for task in tasks))


def _row(target: PlannedTarget) -> tuple[PlannedTarget, str, bool]:
    return target, how(target), target.is_downgrade


def _groups(excluded: Sequence[Excluded]) -> list[Group]:
    """The largest group first."""
    by_code: defaultdict[str, list[Excluded]] = defaultdict(list)
    for left_out in excluded:
        by_code[left_out.reason.code].append(left_out)
    groups = [Group(_title(code), rows[:SHOWN], len(rows)) for code, rows in by_code.items()]
    return sorted(groups, key=lambda group: -group.devices)


def _title(code: str) -> str:
    return _TITLES.get(code, code.replace("_", " ").capitalize())
