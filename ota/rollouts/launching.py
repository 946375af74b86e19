"""Starting a rollout: rows only, the clock does the rest."""

import copy
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from console.counts import count
from database import bulk
from fleet import versions
from fleet.models import Device
from ota.models import Rollout, RolloutEvent, TaskEvent, UpgradeTarget, UpgradeTask, Wave
from ota.models.upgrades import new_bid
from ota.moments import moment
from ota.needs import Reason
from ota.rollouts import course
from ota.rollouts.options import InvalidPolicy, Options
from ota.rollouts.planning import Excluded, Plan, PlannedTarget, PlannedTask, plan
from ota.states import TaskStatus

Kind = RolloutEvent.Kind
NOBODY = "It needs the approval of somebody else than its author: say with --user in whose name it starts."
MANY = 500  # tasks: so many change what the database plans with


class NothingToUpgrade(Exception):
    """None of the devices can be upgraded; the plan says why for each."""


class PlanChanged(Exception):
    """What would happen now is not what the operator saw; nothing was started."""


def launch(
    devices: QuerySet[Device],
    options: Options,
    now: dt.datetime,
    user: User | None = None,
    seen: str = "",
    remark: str = "",
) -> tuple[Rollout, Plan]:
    """Starts a rollout, or puts it up for approval where the organization wants a second person.

    ``seen`` is the digest of the plan that the operator has agreed to, where there was one; ``remark``
    ends the first line of the history.

    A dock that got another open task since the plan was made is left out of the returned plan; unless
    somebody has agreed to it with that dock.

    Raises:
        NothingToUpgrade: no device can be upgraded.
        PlanChanged: something else than ``seen`` would happen.
        InvalidPolicy: it could not go like this, or nobody would be its author from whom to tell
            the second person.
        fleet.versions.InvalidVersion: ``options.to`` is no version.
    """
    planned = plan(devices, options, now)
    if seen and planned.tasks and planned.digest != seen:
        raise PlanChanged("the plan changed since it was looked at")
    if missing := missing_author(planned, options, user):
        raise InvalidPolicy("", missing)
    starts_now = options.starts_at is None or options.starts_at <= now
    opened_at = now if starts_now and not planned.needs_approval else None
    with transaction.atomic():
        rollout = _rollout(options, planned, now, user)
        started = _store(rollout, planned, opened_at, now, user)
        if seen and len(started.tasks) < len(planned.tasks):
            raise PlanChanged("another rollout took a dock since the plan was looked at")
        if not started.tasks:
            raise NothingToUpgrade("none of the devices can be upgraded")
        _keep_choice(rollout, options, planned)
        _note(rollout, planned, opened_at, now, user, remark)
        if len(started.tasks) >= MANY:
            bulk.refresh_statistics(UpgradeTask, UpgradeTarget)
    return rollout, started


def missing_author(planned: Plan, options: Options, user: User | None) -> str:
    """Why it could not start in nobody's name; empty if it could, or if it is somebody's."""
    return NOBODY if planned.needs_approval and not user and not options.is_automatic else ""


def _rollout(options: Options, planned: Plan, now: dt.datetime, user: User | None) -> Rollout:
    waits = planned.needs_approval
    return Rollout.objects.create(
        name=options.name or f"Upgrade of {moment(now)}",
        status=Rollout.Status.NEEDS_APPROVAL if waits else Rollout.Status.RUNNING,
        target_version=versions.canonical(options.to) if options.to else "",
        allow_downgrade=options.allow_downgrade,
        rest_of=options.rest_of,
        is_automatic=options.is_automatic,
        starts_at=options.starts_at,
        deadline_at=options.deadline_at,
        judged_from=now,
        created_by=user,
        **planned.policy,
    )


def _keep_choice(rollout: Rollout, options: Options, planned: Plan) -> None:
    """By what the devices were chosen and what joining ones get, also if nobody may join yet."""
    chosen = [copy.copy(criterion) for criterion in options.criteria]
    for criterion in chosen:
        criterion.rollout, criterion.with_aircraft = rollout, options.with_aircraft
    bulk.insert(chosen)
    offers = [copy.copy(offer) for offer in planned.offers]
    for offer in offers:
        offer.rollout = rollout
    bulk.insert(offers)


def _note(
    rollout: Rollout,
    planned: Plan,
    opened_at: dt.datetime | None,
    now: dt.datetime,
    user: User | None,
    remark: str,
) -> None:
    docks, waves = len(planned.tasks), len(planned.waves)
    text = f"{count(docks, 'dock')} in {count(waves, 'wave')}"
    if rollout.keeps_open:
        text += "; it stays open"
    if rollout.is_automatic:
        text = f"by the system: {text}"
    kind = Kind.NEEDS_APPROVAL if planned.needs_approval else Kind.STARTED
    lines = [
        RolloutEvent(
            rollout=rollout, at=now, kind=kind, actor=user, text=course.joined(text, remark)
        )
    ]
    if opened_at:
        lines.append(RolloutEvent(rollout=rollout, at=now, kind=Kind.WAVE_OPENED, text="wave 1"))
    bulk.insert(lines)


def _store(
    rollout: Rollout, planned: Plan, opened_at: dt.datetime | None, now: dt.datetime, user: Any
) -> Plan:
    """The rows of a rollout, many at a time. The database refuses a second open task of a dock."""
    waves = _waves(rollout, planned, opened_at)
    stored = store_tasks(planned.tasks, rollout, waves, now, user)
    taken = Reason("open_task", "another upgrade of this dock is open")
    overtaken = [task for task in planned.tasks if task.gateway.pk not in stored]
    left_out = [Excluded(target.device, taken) for task in overtaken for target in task.targets]
    kept = [task for task in planned.tasks if task.gateway.pk in stored]
    docks = Counter(task.wave for task in kept)
    cut = [wave._replace(docks=docks[number]) for number, wave in enumerate(planned.waves, 1)]
    return planned._replace(tasks=kept, excluded=planned.excluded + left_out, waves=cut)


def store_tasks(
    tasks: Sequence[PlannedTask],
    rollout: Rollout,
    waves: Mapping[int, Wave],
    now: dt.datetime,
    user: User | None = None,
    text: str = "planned",
) -> dict[int, int]:
    """The rows of planned tasks; their keys by the dock's, with the waves by number.

    A dock that has another open task is left out. In a transaction that nobody else adds to the rollout in.
    """
    rows = [_task(task, rollout, waves[task.wave], now) for task in tasks]
    bulk.insert_rows(UpgradeTask, rows, ignore_conflicts=True)
    new = UpgradeTask.objects.filter(
        rollout=rollout, targets=None, status=TaskStatus.PENDING, attempt=0, retry_of=None
    )
    stored = dict(new.values_list("gateway_id", "pk"))
    bulk.insert_rows(
        UpgradeTarget,
        [
            _target(stored[task.gateway.pk], target)
            for task in tasks
            if task.gateway.pk in stored
            for target in task.targets
        ],
    )
    line = {"kind": TaskEvent.Kind.STATUS, "at": now, "to_status": TaskStatus.PENDING}
    line |= {"actor_id": user.pk if user else None, "text": text}
    bulk.insert_rows(TaskEvent, [line | {"task_id": pk} for pk in stored.values()])
    return stored


def _task(planned: PlannedTask, rollout: Rollout, wave: Wave, now: dt.datetime) -> bulk.Row:
    starts = planned.wave == 1 or wave.opened_at
    return {
        "rollout_id": rollout.pk,
        "wave_id": wave.pk,
        "gateway_id": planned.gateway.pk,
        "organization_id": planned.gateway.organization_id,
        "bid": new_bid(),
        "status_at": now,
        "not_before": course.scattered(rollout, now) if starts else None,
    }


def _waves(rollout: Rollout, planned: Plan, opened_at: dt.datetime | None) -> dict[int, Wave]:
    """The rows of the waves by number."""
    bulk.insert(
        Wave(
            rollout=rollout,
            number=number,
            title=wave.title,
            gate=rollout.gate_first if number == 1 else rollout.gate,
            opened_at=opened_at if number == 1 else None,
        )
        for number, wave in enumerate(planned.waves, 1)
    )
    return {wave.number: wave for wave in Wave.objects.filter(rollout=rollout)}


def _target(task: int, planned: PlannedTarget) -> bulk.Row:
    return {
        "task_id": task,
        "device_id": planned.device.pk,
        "package_id": planned.package.pk,
        "upgrade_type": planned.upgrade_type,
        "from_version": planned.device.firmware_version,
        "to_version": planned.package.version,
    }
