"""Rollouts: what would happen, starting it, canceling it, and its end."""

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from fleet import versions
from fleet.models import Device
from mqtt_bridge import bulk
from ota import live, needs
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTarget, UpgradeTask
from ota.needs import Answer, Reason
from ota.states import OPEN, TaskStatus

# How the reason begins where somebody has paused a rollout.
BY_PERSON = "paused by "


class NothingToUpgrade(Exception):
    """None of the devices can be upgraded; the plan says why for each."""


class PlanChanged(Exception):
    """What would happen now is not what the operator saw; nothing was started."""


class Options(NamedTuple):
    """What an operator chooses for a rollout.

    ``to`` is a version for all, empty for the newest of each model; ``with_aircraft`` adds the
    aircraft of chosen docks.
    """

    name: str = ""
    to: str = ""
    limit_in_flight: int | None = None
    allow_downgrade: bool = False
    with_aircraft: bool = False


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

    def as_json(self) -> dict[str, Any]:
        return {
            "gateway_sn": self.gateway.sn,
            "targets": [target.as_json() for target in self.targets],
            "waits_for": [reason.as_json() for reason in self.waits_for],
        }


class Excluded(NamedTuple):
    """One device that this rollout would never upgrade, and why."""

    device: Device
    reason: Reason

    def as_json(self) -> dict[str, Any]:
        return {"sn": self.device.sn, **self.reason.as_json()}


class Plan(NamedTuple):
    """What would happen to each chosen device."""

    tasks: list[PlannedTask]
    excluded: list[Excluded]

    @property
    def digest(self) -> str:
        """Equal for plans that upgrade the same devices to the same versions in the same way."""
        lines = sorted(
            f"{task.gateway.sn} {target.device.sn} {target.upgrade_type} {target.package.sha256}"
            for task in self.tasks
            for target in task.targets
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, Any]:
        return {
            "tasks": [task.as_json() for task in self.tasks],
            "excluded": [left_out.as_json() for left_out in self.excluded],
        }


def plan(devices: QuerySet[Device], options: Options, now: dt.datetime) -> Plan:
    """What a rollout for the devices would do; a dozen queries, whatever their number.

    Raises:
        fleet.versions.InvalidVersion: ``options.to`` is no version.
    """
    to = versions.canonical(options.to) if options.to else ""
    if options.with_aircraft:
        devices = Device.objects.filter(pk__in=devices.values("pk")).with_aircraft()
    answers = needs.assess(devices, now, to=to, allow_downgrade=options.allow_downgrade)
    excluded = [Excluded(a.device, a.exclusion) for a in answers if a.exclusion]
    by_gateway: defaultdict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        gateway = needs.gateway_of(answer.device)
        if answer.exclusion is None and gateway:
            by_gateway[gateway.pk].append(answer)
    return Plan([_planned(found) for found in by_gateway.values()], excluded)


def _planned(answers: Sequence[Answer]) -> PlannedTask:
    """One task for a dock and its aircraft; the aircraft comes first, as docks are told to do it."""
    ordered = sorted(answers, key=lambda answer: answer.device.is_dock)
    gateway = needs.gateway_of(ordered[0].device)
    targets = [PlannedTarget(a.device, a.upgrade_type, a.package) for a in ordered if a.package]
    reasons = {reason.code: reason for answer in ordered for reason in answer.blockers}
    if gateway is None:
        raise ValueError(f"{ordered[0].device} has no dock")
    return PlannedTask(gateway, targets, list(reasons.values()))


def launch(
    devices: QuerySet[Device],
    options: Options,
    now: dt.datetime,
    user: User | None = None,
    seen: str = "",
) -> tuple[Rollout, Plan]:
    """Starts a rollout: rows only, the clock does the rest.

    ``seen`` is the digest of the plan that the operator has agreed to, where there was one.

    A dock that got another open task since the plan was made is left out of the returned plan.

    Raises:
        NothingToUpgrade: no device can be upgraded.
        PlanChanged: something else than ``seen`` would happen.
        fleet.versions.InvalidVersion: ``options.to`` is no version.
    """
    planned = plan(devices, options, now)
    if seen and planned.tasks and planned.digest != seen:
        raise PlanChanged("the plan changed since it was looked at")
    with transaction.atomic():
        rollout = Rollout.objects.create(
            name=options.name or f"Upgrade of {now:%Y-%m-%d %H:%M}",
            limit_in_flight=options.limit_in_flight or settings.LIMIT_IN_FLIGHT,
            target_version=versions.canonical(options.to) if options.to else "",
            allow_downgrade=options.allow_downgrade,
            created_by=user,
        )
        started = _store(rollout, planned, now, user)
        if not started.tasks:
            raise NothingToUpgrade("none of the devices can be upgraded")
    return rollout, started


def _store(rollout: Rollout, planned: Plan, now: dt.datetime, user: Any) -> Plan:
    """The rows of a rollout, many at a time. The database refuses a second open task of a dock."""
    rows = [
        UpgradeTask(rollout=rollout, gateway=task.gateway, status_at=now) for task in planned.tasks
    ]
    bulk.insert(rows, ignore_conflicts=True)
    stored = {task.gateway_id: task for task in UpgradeTask.objects.filter(rollout=rollout)}
    bulk.insert(
        _target(stored[task.gateway.pk], target)
        for task in planned.tasks
        if task.gateway.pk in stored
        for target in task.targets
    )
    bulk.insert(_created(task, now, user) for task in stored.values())
    taken = Reason("open_task", "another upgrade of this dock is open")
    overtaken = [task for task in planned.tasks if task.gateway.pk not in stored]
    left_out = [Excluded(target.device, taken) for task in overtaken for target in task.targets]
    kept = [task for task in planned.tasks if task.gateway.pk in stored]
    return Plan(kept, planned.excluded + left_out)


def _target(task: UpgradeTask, planned: PlannedTarget) -> UpgradeTarget:
    return UpgradeTarget(
        task=task,
        device=planned.device,
        package=planned.package,
        upgrade_type=planned.upgrade_type,
        from_version=planned.device.firmware_version,
        to_version=planned.package.version,
    )


def _created(task: UpgradeTask, now: dt.datetime, user: Any) -> TaskEvent:
    return TaskEvent(
        task=task,
        at=now,
        kind=TaskEvent.Kind.STATUS,
        to_status=TaskStatus.PENDING,
        actor=user,
        text="planned",
    )


def pause(rollout: Rollout, reason: str = "", user: User | None = None) -> bool:
    """Issues nothing more until ``resume``, what runs goes on; whether it was running.

    A person needs no reason; without ``user`` it is the system that pauses.
    """
    reason = f"{BY_PERSON}{user}" if user else reason
    running = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.RUNNING)
    changed = running.update(status=Rollout.Status.PAUSED, pause_reason=reason[:500])
    _announce_waiting(rollout)
    return bool(changed)


def resume(rollout: Rollout) -> bool:
    """Goes on after ``pause``; whether it was paused. What waits is looked at anew."""
    with transaction.atomic():
        paused = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.PAUSED)
        changed = paused.update(status=Rollout.Status.RUNNING, pause_reason="")
        if changed:
            waiting = UpgradeTask.objects.filter(rollout=rollout, status=TaskStatus.PENDING)
            waiting.update(checked_at=None, is_ready=False)
    _announce_waiting(rollout)
    return bool(changed)


def _announce_waiting(rollout: Rollout) -> None:
    """The rollout, and the tasks whose note tells whether it runs."""
    waiting = UpgradeTask.objects.filter(rollout=rollout, status=TaskStatus.PENDING)
    live.announce((rollout.pk, pk) for pk in (0, *waiting.values_list("pk", flat=True)))


def cancel(rollout: Rollout, now: dt.datetime, user: User | None = None) -> int:
    """Cancels what was not issued yet and returns how many; a running upgrade cannot be stopped.

    A task whose command went out and got no reply may be running too, so it is followed on.
    """
    going = [Rollout.Status.RUNNING, Rollout.Status.PAUSED]
    Rollout.objects.filter(pk=rollout.pk, status__in=going).update(status=Rollout.Status.CANCELED)
    live.announce([(rollout.pk, 0)])
    waiting = rollout.tasks.filter(status=TaskStatus.PENDING).values_list("pk", flat=True)
    return len(cancel_tasks(waiting, now, user))


def cancel_tasks(pks: Iterable[int], now: dt.datetime, user: User | None = None) -> list[int]:
    """Cancels those of the tasks that wait; returns their primary keys."""
    moved = UpgradeTask.objects.move(
        pks,
        TaskStatus.CANCELED,
        now,
        "canceled before the command was sent",
        only_from=[TaskStatus.PENDING],
        actor=user,
    )
    live.announce(UpgradeTask.objects.filter(pk__in=moved).values_list("rollout_id", "pk"))
    return moved


def finish(now: dt.datetime) -> None:
    """Closes the rollouts that have no open task left.

    A command of a canceled rollout that came back unsent or unanswered does not go out again.
    """
    returned = UpgradeTask.objects.filter(
        status=TaskStatus.PENDING, rollout__status=Rollout.Status.CANCELED
    )
    cancel_tasks(returned.values_list("pk", flat=True), now)
    unfinished = Rollout.objects.filter(finished_at=None).exclude(
        Exists(UpgradeTask.objects.filter(rollout=OuterRef("pk"), status__in=OPEN))
    )
    for rollout in unfinished:
        status = rollout.status
        if status in {Rollout.Status.RUNNING, Rollout.Status.PAUSED}:
            status = Rollout.Status.FINISHED
        Rollout.objects.filter(pk=rollout.pk, finished_at=None).update(
            status=status, finished_at=now
        )
        live.announce([(rollout.pk, 0)])
