"""What a rollout would do to each chosen device, and in which wave."""

import datetime as dt
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Q, QuerySet

from fleet.models import Device, DeviceModel, Site
from ota import needs, waves
from ota.models import (
    Criterion,
    FirmwarePackage,
    Offer,
    OrganizationPolicy,
    Policy,
    Rollout,
    UpgradeTarget,
)
from ota.needs import Answer, Reason
from ota.rollouts.options import FIELDS, InvalidPolicy, Options, check, refuse_closed
from ota.states import TaskStatus
from ota.upgrades import hours

# What stays with a rollout: a target unless it was canceled before it was sent.
HAD = ~Q(task__status=TaskStatus.CANCELED, task__attempt=0)


def had(rollout: Rollout) -> QuerySet[UpgradeTarget, Any]:
    """The keys of the devices that stay with a rollout."""
    targets = UpgradeTarget.objects.filter(HAD, task__rollout=rollout)
    return targets.order_by().values("device")


class PlannedTarget(NamedTuple):
    """One device that would be upgraded."""

    device: Device
    upgrade_type: UpgradeTarget.Type
    package: FirmwarePackage

    def as_json(self) -> dict[str, Any]:
        return {
            "sn": self.device.sn,
            "upgrade_type": str(self.upgrade_type),
            "from_version": self.device.firmware_version,
            "to_version": self.package.version,
        }


class PlannedTask(NamedTuple):
    """One command that would go to a dock, and what must clear before."""

    gateway: Device
    targets: list[PlannedTarget]
    waits_for: list[Reason]
    wave: int = 1

    def as_json(self) -> dict[str, Any]:
        return {
            "gateway_sn": self.gateway.sn,
            "wave": self.wave,
            "targets": [target.as_json() for target in self.targets],
            "waits_for": [reason.as_json() for reason in self.waits_for],
        }


class Excluded(NamedTuple):
    """One device that this rollout would never upgrade, and why."""

    device: Device
    reason: Reason

    def as_json(self) -> dict[str, Any]:
        return {"sn": self.device.sn, **self.reason.as_json()}


class PlannedWave(NamedTuple):
    """A wave: what it is called, if anything, and how many docks it has."""

    title: str
    docks: int


class Plan(NamedTuple):
    """What would happen to each chosen device, in which wave, under which policy.

    ``offers``, not saved yet, are what devices get that join it later, if it stays open. ``too_late`` is
    the number of docks whose hours do not begin before the deadline, which would cancel them.
    """

    tasks: list[PlannedTask]
    excluded: list[Excluded]
    waves: list[PlannedWave]
    policy: Mapping[str, Any]
    needs_approval: bool = False
    offers: Sequence[Offer] = ()
    too_late: int = 0

    @property
    def stays_open(self) -> bool:
        return bool(self.policy["keeps_open"])

    @property
    def joining_get(self) -> Sequence[Offer]:
        """What joining devices get; nothing where nobody can join."""
        return self.offers if self.stays_open else ()

    @property
    def digest(self) -> str:
        """Equal for plans that upgrade the same devices to the same versions in the same way.

        That is also: that let others join for the same versions, and ask a second person or not.
        """
        lines = sorted(
            f"{task.wave} {task.gateway.sn} {target.device.sn} {target.upgrade_type} {target.package.sha256}"
            for task in self.tasks
            for target in task.targets
        )
        lines.append(f"open {self.stays_open}, approval {self.needs_approval}")
        lines += [f"joining {offer.model.key} {offer.version}" for offer in self.joining_get]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, Any]:
        return {
            "tasks": [task.as_json() for task in self.tasks],
            "excluded": [left_out.as_json() for left_out in self.excluded],
            "waves": [
                {"number": number, "title": wave.title, "docks": wave.docks}
                for number, wave in enumerate(self.waves, 1)
            ],
            "needs_approval": self.needs_approval,
            "stays_open": self.stays_open,
            "joining_get": [
                {"model_key": offer.model.key, "version": offer.version}
                for offer in self.joining_get
            ],
            "too_late": self.too_late,
        }


def plan(devices: QuerySet[Device], options: Options, now: dt.datetime) -> Plan:
    """What a rollout for the devices would do; a dozen queries, whatever their number.

    Raises:
        InvalidPolicy: it could not go like this.
        fleet.versions.InvalidVersion: ``options.to`` is no version.
    """
    to = options.target
    if options.with_aircraft:
        devices = Device.objects.filter(pk__in=devices.values("pk")).with_aircraft()
        if options.rest_of:
            devices = devices.exclude(pk__in=had(options.rest_of))
    _refuse_crowds(devices)
    answers = needs.assess(devices, now, to=to, allow_downgrade=options.allow_downgrade)
    excluded = [Excluded(a.device, a.exclusion) for a in answers if a.exclusion]
    by_gateway: defaultdict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        is_wanted = options.need in {"", answer.need}
        if answer.exclusion is None and answer.gateway and is_wanted:
            by_gateway[answer.gateway.pk].append(answer)
    tasks = [planned(found) for found in by_gateway.values()]
    concerned = {task.gateway.organization_id for task in tasks} - {None}
    preferred = list(OrganizationPolicy.objects.filter(organization__in=concerned))
    policy = _policy(concerned, preferred, is_list=bool(options.criteria)) | dict(options.policy)
    check(options, policy, now)
    start, how = max(options.starts_at or now, now), Rollout(**policy)
    if options.deadline_at:
        refuse_closed(how, {task.gateway.site for task in tasks}, start, options.deadline_at)
    tasks = _within_hours(tasks, how, start)
    _refuse_strangers(options.pilot, tasks)
    numbered, waves_ = _in_waves(tasks, str(policy["waves"]), set(options.pilot))
    asks = _needs_approval(tasks, preferred) or (
        policy["keeps_open"] and may_grow(options.criteria)
    )
    late = _too_late(tasks, how, start, options.deadline_at)
    return Plan(numbered, excluded, waves_, policy, asks, _offers(options), too_late=late)


def _refuse_crowds(devices: QuerySet[Device]) -> None:
    """Before all of them are read: a page must answer, and nobody looks through more of them."""
    number, most = devices.order_by().count(), settings.ROLLOUT_MOST_DEVICES
    if number > most:
        raise InvalidPolicy(
            "",
            f"{number:,} devices are chosen, and a rollout takes {most:,} at most: choose fewer, such as "
            "those that need an upgrade, or those of one organization, site or model.",
        )


def planned(answers: Sequence[Answer]) -> PlannedTask:
    """One task for a dock and its aircraft; the aircraft comes first, as docks are told to do it."""
    ordered = sorted(answers, key=lambda answer: answer.device.is_dock)
    gateway = ordered[0].gateway
    targets = [PlannedTarget(a.device, a.upgrade_type, a.package) for a in ordered if a.package]
    reasons = {reason.code: reason for answer in ordered for reason in answer.blockers}
    if gateway is None:
        raise ValueError(f"{ordered[0].device} has no dock")
    return PlannedTask(gateway, targets, list(reasons.values()))


def _within_hours(
    tasks: Sequence[PlannedTask], policy: Policy, start: dt.datetime
) -> list[PlannedTask]:
    """The tasks with what the hours keep them from at the start, as they will say then."""
    one_of_each = {task.gateway.site_id: task.gateway for task in tasks}
    closed = {site: hours.closed(policy, dock, start) for site, dock in one_of_each.items()}
    return [
        task._replace(waits_for=[*task.waits_for, reason])
        if (reason := closed[task.gateway.site_id])
        else task
        for task in tasks
    ]


def _too_late(
    tasks: Sequence[PlannedTask], policy: Policy, start: dt.datetime, deadline: dt.datetime | None
) -> int:
    """How many docks the deadline would cancel because their hours do not begin before it."""
    if deadline is None:
        return 0
    one_of_each = {task.gateway.site_id: task.gateway for task in tasks}
    begins = {site: hours.begins(policy, dock, start) for site, dock in one_of_each.items()}
    return sum((begins[task.gateway.site_id] or deadline) >= deadline for task in tasks)


def _policy(
    concerned: Collection[int | None], preferred: Sequence[OrganizationPolicy], *, is_list: bool
) -> dict[str, Any]:
    """All fields of a policy: those of the one organization concerned, else everybody's.

    Only what was chosen as a list can stay open.
    """
    if len(concerned) == len(preferred) == 1:
        found = {name: getattr(preferred[0], name) for name in FIELDS}
        return found | {"keeps_open": is_list and found["keeps_open"]}
    common = {field.name: field.get_default() for field in Policy._meta.fields}
    return common | {"limit_in_flight": settings.LIMIT_IN_FLIGHT}


def usual_policy(devices: QuerySet[Device], *, is_list: bool = False) -> dict[str, Any]:
    """The policy of a rollout for the devices unless somebody chooses otherwise; two queries.

    ``is_list`` tells that they were chosen by criteria and not picked by hand.
    """
    concerned = set(devices.order_by().values_list("organization", flat=True)) - {None}
    preferred = list(OrganizationPolicy.objects.filter(organization__in=concerned))
    return _policy(concerned, preferred, is_list=is_list)


def _needs_approval(tasks: Sequence[PlannedTask], preferred: Sequence[OrganizationPolicy]) -> bool:
    docks = Counter(task.gateway.organization_id for task in tasks)
    return any(
        policy.approval_above is not None and docks[policy.organization_id] > policy.approval_above
        for policy in preferred
    )


def may_grow(criteria: Sequence[Criterion]) -> bool:
    """Whether docks may join of an organization that wants a second person above some number."""
    owners: set[int | None] = {
        criterion.site.organization_id if criterion.site else criterion.organization_id
        for criterion in criteria
    }
    asking = OrganizationPolicy.objects.exclude(approval_above=None)
    return (asking if None in owners else asking.filter(organization__in=owners)).exists()


def _offers(options: Options) -> list[Offer]:
    """What would be given to devices that join: the versions of now, whatever the library gets later."""
    if not options.criteria:
        return []
    packages = needs.Library().by_model(options.target)
    named = {criterion.model_id for criterion in options.criteria}
    if None in named or options.with_aircraft:
        named = set(packages)
    found = DeviceModel.objects.in_bulk([pk for pk in packages if pk in named])
    return [
        Offer(model=model, version=packages[pk].version, number=packages[pk].version_number)
        for pk, model in sorted(found.items())
    ]


def _refuse_strangers(pilot: Sequence[str], tasks: Sequence[PlannedTask]) -> None:
    known = {target.device.sn for task in tasks for target in task.targets}
    known |= {task.gateway.sn for task in tasks}
    if tasks and (unknown := sorted(set(pilot) - known)):
        raise InvalidPolicy(
            "pilot", f"Not among the docks of this rollout: {', '.join(unknown[:5])}."
        )


def _in_waves(
    tasks: Sequence[PlannedTask], sizes: str, pilot: set[str]
) -> tuple[list[PlannedTask], list[PlannedWave]]:
    """The tasks with the numbers of their waves, in their order, and the waves."""
    first = [task for task in tasks if pilot & _names(task)]
    rest = [task for task in tasks if not pilot & _names(task)]
    groups = [("pilot", first)] if first else []
    groups += _by_site(rest) if waves.is_by_site(sizes) else _by_size(rest, sizes)
    numbered = [
        task._replace(wave=number)
        for number, (_, members) in enumerate(groups, 1)
        for task in members
    ]
    return numbered, [PlannedWave(title, len(members)) for title, members in groups]


def _names(task: PlannedTask) -> set[str]:
    return {task.gateway.sn, *(target.device.sn for target in task.targets)}


def _by_site(tasks: Sequence[PlannedTask]) -> list[tuple[str, list[PlannedTask]]]:
    found: defaultdict[Site | None, list[PlannedTask]] = defaultdict(list)
    for task in tasks:
        found[task.gateway.site].append(task)
    names = Counter(site.name for site in found if site)
    titles = {site: _site_title(members[0].gateway, names) for site, members in found.items()}
    # Docks that stand nowhere go last.
    ordered = sorted(found, key=lambda site: (not site, titles[site], site.pk if site else 0))
    return [(titles[site], found[site]) for site in ordered]


def _site_title(dock: Device, names: Mapping[str, int]) -> str:
    """The name of a dock's site, and whose it is where several sites have that name."""
    if dock.site is None:
        return "no site"
    name = dock.site.name
    return f"{name} of {dock.organization}"[:200] if names[name] > 1 else name


def _by_size(tasks: Sequence[PlannedTask], sizes: str) -> list[tuple[str, list[PlannedTask]]]:
    remaining = iter(tasks)
    lengths = waves.lengths(waves.parse(sizes), len(tasks))
    return [("", list(islice(remaining, length))) for length in lengths]
