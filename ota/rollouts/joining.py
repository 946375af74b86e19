"""Rollouts that stay open: devices that come to match what one was started for join its last wave.

They get the version that was decided at the launch: what the library gets later, nobody has approved for
them. Each device joins a rollout once, and a clone never if the rollout that was cloned has had it.
Nobody joins whose dock has another open task, which the database refuses anyway, nor whose last failure
nobody has looked at.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When

from console.counts import count
from fleet.models import Device, DeviceModel
from ota import live, needs
from ota.models import (
    Criterion,
    OrganizationPolicy,
    Rollout,
    RolloutEvent,
    UpgradeTarget,
    UpgradeTask,
    Wave,
)
from ota.needs import Answer, Need, Situation
from ota.rollouts import course
from ota.rollouts.launching import store_tasks
from ota.rollouts.planning import HAD, PlannedTask, planned

NAMED = 10  # docks that a line of the history names
MOST = 500  # docks that join a rollout at once; the next look goes on


def join(now: dt.datetime) -> None:
    """Adds what came to match; while nothing does, three queries for any number of rollouts."""
    rollouts = {rollout.pk: rollout for rollout in _open(now)}
    devices = list(_free(_matching(rollouts))) if rollouts else []
    if not devices:
        return
    situation = Situation(now, needs.docks_of(devices))
    found: defaultdict[int, list[Answer]] = defaultdict(list)
    for device in devices:
        rollout = rollouts[device.joins]
        answer = needs.answer(device, situation, device.offered, rollout.allow_downgrade)
        if answer.exclusion is None:
            found[rollout.pk].append(answer)
    for pk, answers in sorted(found.items()):
        _join(rollouts[pk], answers, now)


class Held(NamedTuple):
    """How many docks would join a rollout, had they no other open upgrade, or no failure that needs somebody."""

    busy: int = 0
    failed: int = 0


def held_back(rollout: Rollout, now: dt.datetime) -> Held:
    """What keeps docks from joining a rollout that stays open; three queries."""
    if not _open(now).filter(pk=rollout.pk).exists():
        return Held()
    matching = _matching([rollout.pk])
    failed = matching.filter(~_has_task(), _has_failed())
    return Held(_docks(matching.filter(_has_task())), _docks(failed))


def _docks(devices: QuerySet[Any]) -> int:
    return devices.order_by().values("takes_commands").distinct().count()


def _open(now: dt.datetime) -> QuerySet[Rollout]:
    in_time = Q(deadline_at=None) | Q(deadline_at__gt=now)
    return Rollout.objects.filter(in_time, status=Rollout.Status.RUNNING, keeps_open=True)


def _matching(rollouts: Iterable[int]) -> QuerySet[Any]:
    """Devices that match a rollout and are not in it yet, with its key as ``joins``; one for each that matches.

    Nor were they in the one of which it is the rest.
    """
    devices: QuerySet[Any] = Device.objects.annotate(
        joins=F("model__offers__rollout"),
        offered=F("model__offers__number"),
        wanted=_NEED,
        may_go_back=F("model__offers__rollout__allow_downgrade"),
        rest_of=F("model__offers__rollout__rest_of"),
        takes_commands=Case(
            When(model__kind=DeviceModel.Kind.DOCK, then=F("pk")), default=F("gateway")
        ),
    )
    targets = UpgradeTarget.objects.filter(device=OuterRef("pk"))
    is_in = targets.filter(task__rollout=OuterRef("joins"))
    was_in = targets.filter(HAD, Exists(_of_original()))
    is_dock = Q(model__kind=DeviceModel.Kind.DOCK)
    return devices.filter(
        is_dock | Q(gateway__model__kind=DeviceModel.Kind.DOCK),
        Q(wanted__in=(Need.REGULAR, Need.CONSISTENCY)) | Q(wanted=Need.DOWNGRADE, may_go_back=True),
        Exists(_criteria()),
        ~Exists(is_in),
        ~Exists(was_in),
        joins__in=list(rollouts),
        organization__isnull=False,
    )


def _of_original() -> QuerySet[UpgradeTask]:
    """The task of a target, if it is of the rollout ``rest_of``.

    Not by a join: without statistics SQLite would walk through all of that rollout for each device.
    """
    original = OuterRef(OuterRef("rest_of"))
    return UpgradeTask.objects.filter(pk=OuterRef("task"), rollout=original)


_NEED = Case(
    When(firmware_number=0, then=Value(Need.UNKNOWN)),
    When(model__offers__number__gt=F("firmware_number"), then=Value(Need.REGULAR)),
    When(model__offers__number__lt=F("firmware_number"), then=Value(Need.DOWNGRADE)),
    When(
        model__offers__number=F("firmware_number"),
        compatible_status=1,
        then=Value(Need.CONSISTENCY),
    ),
    default=Value(Need.NONE),
)


def _criteria() -> QuerySet[Criterion]:
    """Those of the rollout ``joins`` that a device meets, or that its dock meets and that want its aircraft too."""
    same_need = Q(need="") | Q(need=OuterRef("wanted"))
    met = _fits("") | (Q(with_aircraft=True) & _fits("gateway__"))
    return Criterion.objects.filter(met, same_need, rollout=OuterRef("joins"))


def _fits(whose: str) -> Q:
    return (
        (Q(kind="") | Q(kind=OuterRef(f"{whose}model__kind")))
        & (Q(model=None) | Q(model=OuterRef(f"{whose}model")))
        & (Q(organization=None) | Q(organization=OuterRef(f"{whose}organization")))
        & (Q(site=None) | Q(site=OuterRef(f"{whose}site")))
    )


def _free(devices: QuerySet[Any]) -> QuerySet[Any]:
    """Those whose dock has nothing open, and no failure that waits for somebody."""
    free = devices.filter(~_has_task(), ~_has_failed()).order_by("joins", "sn")
    return free.select_related("model", "organization", "site", "gateway__model", "gateway__site")


def _has_failed() -> Exists:
    failed = UpgradeTask.objects.needing_attention().filter(gateway=OuterRef("takes_commands"))
    return Exists(failed)


def _has_task() -> Exists:
    return Exists(UpgradeTask.objects.open().filter(gateway=OuterRef("takes_commands")))


def _join(rollout: Rollout, answers: Sequence[Answer], now: dt.datetime) -> None:
    """Under the lock that those hold who close it; what joined this very moment does so once."""
    with transaction.atomic():
        still = (
            _open(now).select_for_update(of=("self",), no_key=True).filter(pk=rollout.pk).first()
        )
        last = Wave.objects.filter(rollout=rollout).order_by("number").last()
        if still is None or last is None:
            return
        tasks = _tasks(still, answers)
        waves = {last.number: last}
        numbered = [task._replace(wave=last.number) for task in tasks]
        text = "planned: its devices came to match the rollout, which stays open"
        stored = store_tasks(numbered, still, waves, now, text=text)
        if stored:
            sns = [task.gateway.sn for task in numbered if task.gateway.pk in stored]
            course.note(still.pk, RolloutEvent.Kind.JOINED, now, _told(sns, last.number))
    live.announce((rollout.pk, pk) for pk in stored.values())


def _tasks(rollout: Rollout, answers: Sequence[Answer]) -> list[PlannedTask]:
    """What is planned for those that are not in it yet and need no approval that nobody gave."""
    there = set(
        UpgradeTarget.objects.filter(task__rollout=rollout).values_list("device", flat=True)
    )
    by_gateway: defaultdict[int, list[Answer]] = defaultdict(list)
    barred = _asking() if rollout.decided_by_id is None else set()
    for answer in answers:
        gateway = answer.gateway
        if gateway and answer.device.pk not in there and gateway.organization_id not in barred:
            by_gateway[gateway.pk].append(answer)
    return [planned(found) for found in islice(by_gateway.values(), MOST)]


def _asking() -> set[int]:
    """The organizations that want a second person above some number of docks."""
    asking = OrganizationPolicy.objects.exclude(approval_above=None)
    return set(asking.values_list("organization", flat=True))


def _told(sns: Sequence[str], wave: int) -> str:
    more = f" and {len(sns) - NAMED:,} more" if len(sns) > NAMED else ""
    return f"{count(len(sns), 'dock')} joined wave {wave}: {', '.join(sns[:NAMED])}{more}"
