"""Rollouts that stay open: devices that come to match what one was started for join its last wave.

They get the version that was decided at the launch: what the library gets later, nobody has approved for
them. Each device joins a rollout once, and a clone never if the rollout that was cloned has had it.
Nobody joins whose dock has another open task, which the database refuses anyway, nor whose last failure
nobody has looked at.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

# Devices that may join, and the version that each is offered, by their dock and in its order.
Docks = Mapping[int, Mapping[int, int]]


def join(now: dt.datetime) -> None:
    """Adds what came to match; while nothing does, two queries for any number of rollouts."""
    rollouts = {rollout.pk: rollout for rollout in _open(now)}
    for pk, docks in _candidates(rollouts).items():
        if answers := _first(rollouts[pk], docks, now):
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


def _candidates(rollouts: Iterable[int]) -> Mapping[int, Docks]:
    """Of each rollout those whose dock has nothing open, and no failure that waits for somebody."""
    found: dict[int, dict[int, dict[int, int]]] = {}
    if rollouts:
        free = _matching(rollouts).filter(~_has_task(), ~_has_failed()).order_by("joins", "sn")
        columns = free.values_list("joins", "takes_commands", "pk", "offered")
        for rollout, dock, device, offered in columns:
            found.setdefault(rollout, {}).setdefault(dock, {})[device] = offered
    return found


def _first(rollout: Rollout, docks: Docks, now: dt.datetime) -> list[Answer]:
    """The answers for the first that can join: of very many, only so many become objects.

    Those who cannot keep nobody waiting.
    """
    barred = _barred(rollout)
    waiting, found = iter(docks), list[Answer]()
    joining: set[Device] = set()
    while len(joining) < MOST and (some := list(islice(waiting, MOST))):
        offered = {pk: number for dock in some for pk, number in docks[dock].items()}
        for answer in _answers(rollout, offered, now):
            gateway = answer.gateway
            if answer.exclusion is None and gateway and gateway.organization_id not in barred:
                found.append(answer)
                joining.add(gateway)
    return found


def _answers(rollout: Rollout, offered: Mapping[int, int], now: dt.datetime) -> Iterable[Answer]:
    devices = Device.together(Device.objects.filter(pk__among=offered))
    situation = Situation(now, needs.docks_of(devices))
    for device in devices:
        yield needs.answer(device, situation, offered[device.pk], rollout.allow_downgrade)


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
    barred = _barred(rollout)
    for answer in answers:
        gateway = answer.gateway
        if gateway and answer.device.pk not in there and gateway.organization_id not in barred:
            by_gateway[gateway.pk].append(answer)
    return [planned(found) for found in islice(by_gateway.values(), MOST)]


def _barred(rollout: Rollout) -> set[int]:
    """The organizations that want a second person above some number of docks, and nobody has approved it."""
    if rollout.decided_by_id is not None:
        return set()
    asking = OrganizationPolicy.objects.exclude(approval_above=None)
    return set(asking.values_list("organization", flat=True))


def _told(sns: Sequence[str], wave: int) -> str:
    more = f" and {len(sns) - NAMED:,} more" if len(sns) > NAMED else ""
    return f"{count(len(sns), 'dock')} joined wave {wave}: {', '.join(sns[:NAMED])}{more}"
