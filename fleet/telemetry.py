"""What we keep of ``osd`` and ``state``, merged by key: firmware, pre-flight facts, presence.

A dock's osd comes as several messages with disjoint keys, and any property may turn up on either
topic. Only what changed is written, all of a batch in one statement.

Nearly all osd says what it said two seconds before. What was compared with the database a few
seconds ago is not compared again (``is_known``): it costs reading the message and no more.
"""

import collections
import datetime as dt
import itertools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from database import bulk
from database.among import Question
from fleet import versions
from fleet.clock import Watch
from fleet.models import Device
from fleet.properties import Properties
from mqtt_bridge.envelope import Message, is_overtaken
from mqtt_bridge.topics import Kind

# Where each fact stands in a message. Facts repeat every two seconds, so the newest message of a
# batch wins and an overtaken one is put right by the next.
_FACTS = {
    "mode_code": ("mode_code",),
    "flighttask_step_code": ("flighttask_step_code",),
    "drone_in_dock": ("drone_in_dock",),
    "emergency_stop_state": ("emergency_stop_state",),
    "battery_percent": ("drone_charge_state", "capacity_percent"),
    "maintenance_percent": ("drone_battery_maintenance_info", "capacity_percent"),
    "link_workmode": ("wireless_link", "link_workmode"),
    "sub_device_sn": ("sub_device", "device_sn"),
    "sub_device_online": ("sub_device", "device_online_status"),
    "sub_device_paired": ("sub_device", "device_paired"),
    "storage_total": ("storage", "total"),
    "storage_used": ("storage", "used"),
}
# Where an aircraft tells its own battery.
_BATTERY = ("battery", "capacity_percent")

# Firmware properties come once, on change: a report older than the one that we have is dropped.
_ORDERED = {
    "firmware_version": "firmware_reported_at",
    "compatible_status": "compatible_reported_at",
    "firmware_upgrade_status": "upgrading_reported_at",
}
_SEEN = {
    "firmware_version": "firmware_seen_at",
    "compatible_status": "compatible_seen_at",
    "firmware_upgrade_status": "upgrading_seen_at",
}

_COLUMNS = (
    *_FACTS,
    *_ORDERED,
    *_ORDERED.values(),
    *_SEEN.values(),
    "firmware_number",
    "presence",
    "online_since",
    "last_seen_at",
    "changed_at",
)
Changes = dict[str, Any]
Facts = dict[str, Any]

watch = Watch()
REPEATED_EVERY = dt.timedelta(seconds=5)
# A bridge that brings osd in so late hangs: others may have heard the device since.
LATE = dt.timedelta(seconds=10)
# And what comes so late may not undo a change that has been brought in since.
BRIEF = dt.timedelta(seconds=2)
SOONEST = 0.75  # of the time between two looks at a device that always says the same


def record(messages: Sequence[Message[Properties]], now: dt.datetime) -> None:
    """Keeps what the messages say about their senders; a constant number of queries."""
    said = [_Said(one, _facts(one.data), _firmware(one.data)) for one in messages]
    sns = {one.message.sn for one in said}
    # Two bridges must not overtake each other between look and write where order matters.
    is_ordered = any(one.firmware for one in said)
    devices = _stored(sns, lock=is_ordered)
    reports = _merged(said, {device.sn: device for device in devices}, now)
    # After a jump of the clock all look as if they had been silent.
    is_even = watch.is_even(now)
    if is_even and any(_has_returned(device, reports[device.sn], now) for device in devices):
        # Before anything else is written, and for all: bridges that share a fleet which returns
        # would wait for each other's devices.
        mark_silent(now)
        devices = _stored(sns, lock=is_ordered)
    changes = {device.pk: _changes(device, reports[device.sn], now) for device in devices}
    held = {d.sn: _held(d, reports[d.sn], changes[d.pk]) for d in devices}
    # Robust: what has committed must not be brought in again.
    transaction.on_commit(lambda: _remember(said, held), robust=True)
    rows = {pk: row for pk, row in changes.items() if row}
    # In the same statement: two of them over many devices would wait for each other's.
    for device in devices:
        if device.gateway_id and "changed_at" in changes[device.pk]:
            rows.setdefault(device.gateway_id, {})["changed_at"] = now
    bulk.update(Device, _COLUMNS, rows)


# What is compared and may be written. Rows, because objects of all columns cost three times as much.
_READ = ("pk", "sn", "gateway_id", "topology_at", "topology_seen_at", *_COLUMNS)
_Row: Any = collections.namedtuple("_Row", list(_READ))  # type: ignore[misc]  # no literal


def _stored(sns: Collection[str], *, lock: bool) -> list[Any]:
    """The devices of these serial numbers as rows; an unknown one is made, unclaimed."""
    read = _locked if lock else _OPEN.rows
    rows = read(sns)
    if missing := set(sns) - {sn for _, sn, *_ in rows}:
        _make(missing)
        rows += read(missing)
    return [_Row(*row) for row in rows]


def _locked(sns: Collection[str]) -> list[Any]:
    """With their docks, in which a change is noted too, and in one order.

    Two halves of a batch would wait for each other's.
    """
    places = dict(_PLACES.rows(sns))
    both = Device.objects.filter(pk__among={*places, *places.values()} - {None}).order_by("pk")
    rows = both.select_for_update(no_key=True).values_list(*_READ)
    return [row for row in rows if row[1] in sns]


def _of(sns: Collection[str]) -> QuerySet[Device]:
    return Device.objects.filter(sn__among=sns).order_by("pk")


_OPEN = Question(lambda sns: _of(sns).values_list(*_READ))
_PLACES = Question(lambda sns: _of(sns).values_list("pk", "gateway_id"))


def known(sns: Collection[str]) -> list[Device]:
    """The devices of these serial numbers; an unknown one is made, unclaimed."""
    devices = list(_of(sns))
    if missing := set(sns) - {device.sn for device in devices}:
        _make(missing)
        devices += Device.objects.filter(sn__in=missing)
    return devices


def _make(sns: Collection[str]) -> None:
    Device.objects.bulk_create([Device(sn=sn) for sn in sorted(sns)], ignore_conflicts=True)


def mark_silent(now: dt.datetime) -> int:
    """Marks devices offline that were silent for too long, an aircraft of a dock that is
    online off; returns how many.

    What a silent device said about its state is forgotten: when it is back it has to say it anew
    before a command is sent on it.
    """
    limit = now - _silence()
    was_silent = Q(last_seen_at__lt=limit) | Q(last_seen_at=None)
    found = Device.objects.filter(was_silent, presence=Device.Presence.ONLINE)
    pks = list(found.values_list("pk", flat=True))
    if not pks:
        return 0  # nearly always: all that are online were read for it once
    silent = Device.objects.filter(was_silent, pk__among=pks)
    asleep = silent.filter(
        presence=Device.Presence.ONLINE,
        gateway__presence=Device.Presence.ONLINE,
        gateway__last_seen_at__gte=limit,
    )
    # What waited for an aircraft in flight waits at its dock.
    Device.objects.filter(pk__in=list(asleep.values_list("gateway", flat=True))).wake(now)
    count = asleep.update(presence=Device.Presence.OFF, changed_at=now)
    lost = silent.filter(presence=Device.Presence.ONLINE)
    gone = {"presence": Device.Presence.OFFLINE, "changed_at": now}
    return count + lost.update(**gone, **Device.UNKNOWN_FACTS)


def _has_returned(device: Any, report: "Report", now: dt.datetime) -> bool:
    """Whether it speaks after a silence that nobody has noticed, as after a stop of all processes."""
    is_online = device.presence == Device.Presence.ONLINE
    return is_online and is_silent(device.last_seen_at, now) and now - report.heard_at <= _silence()


def is_silent(last_seen_at: dt.datetime | None, now: dt.datetime) -> bool:
    """Whether who was last seen then is offline now; it may not have been marked as such yet."""
    return last_seen_at is None or now - last_seen_at > _silence()


def _silence() -> dt.timedelta:
    return dt.timedelta(seconds=settings.OFFLINE_AFTER)


def _every() -> dt.timedelta:
    """How often it is written down that a device was heard."""
    return dt.timedelta(seconds=min(10.0, settings.OFFLINE_AFTER / 6))


def noted_within() -> float:
    """Seconds after which the database says of a device that is heard that it was.

    It speaks every two seconds. A look right after another bridge's leaves it to the next one.
    """
    return 2 * _every().total_seconds() + 2


def heard(device: Any, at: dt.datetime, now: dt.datetime) -> Changes:
    """What hearing of a device at ``at`` changes: its presence, and now and then when it was seen."""
    changes: Changes = {}
    if now - at > _silence():
        return changes  # a late delivery says nothing about now
    if device.presence != Device.Presence.ONLINE:
        changes |= {"presence": Device.Presence.ONLINE, "online_since": now, "changed_at": now}
    # Who says the same is looked at a little before its time (``_until``), and by each bridge.
    if changes or device.last_seen_at is None or at - device.last_seen_at >= _every() * SOONEST:
        changes["last_seen_at"] = at
    return changes


class Reported(NamedTuple):
    """A firmware property and the message that told it."""

    value: Any
    message: Message[Properties]


class Report(NamedTuple):
    """What a batch says about one device, and when it was last heard."""

    heard_at: dt.datetime
    facts: dict[str, Any]
    firmware: dict[str, Reported]


class _Said(NamedTuple):
    """A message and what it says that we keep."""

    message: Message[Properties]
    facts: Facts
    firmware: Facts


class _Compared(NamedTuple):
    """What an osd said, and from when until when (by our clock) it need not be compared again.

    Before ``since`` it does: our clock was set back.
    """

    data: Properties
    told: Facts
    since: dt.datetime
    until: dt.datetime


# By serial number. It decides nothing but whether to look: after some seconds each message is
# compared with the database again, whoever else has written there meanwhile. So what another bridge
# wrote between two equal messages of ours is put right by the next look, within ten seconds.
compared: dict[str, list[_Compared]] = {}
_MOST_COMPARED = 100_000  # devices
_MOST_OF_ONE = 8  # a dock has three groups of osd


def is_known(message: Message[Properties]) -> bool:
    """Whether this osd says what the database was found to hold some seconds ago."""
    found = compared.get(message.sn, ())
    at = message.received_at
    return any(one.since <= at < one.until and one.data == message.data for one in found)


def forget(sns: Iterable[str]) -> None:
    """The next osd of these devices is compared with the database, whatever it says."""
    for sn in sns:
        compared.pop(sn, None)


def _remember(said: Iterable[_Said], held: Mapping[str, Facts]) -> None:
    """Notes osd that agrees with what the database holds now; what contradicts it is known no more."""
    for sn, facts in held.items():
        before = compared.pop(sn, ())  # it goes to the end: who was looked at longest ago is first
        compared[sn] = [one for one in before if _agrees(one.told, facts)]
    for message, facts, firmware in said:
        told = facts | firmware
        if message.kind is Kind.OSD and told.items() <= held[message.sn].items():
            others = [one for one in compared[message.sn] if one.data != message.data]
            at = message.received_at
            new = _Compared(message.data, told, at, _until(at, others))
            compared[message.sn] = [*others, new][-_MOST_OF_ONE:]
    forget(list(itertools.islice(compared, max(len(compared) - _MOST_COMPARED, 0))))


def _until(now: dt.datetime, others: Sequence[_Compared]) -> dt.datetime:
    """When all groups of a device are compared anew, together: its row is read once for all of them.

    Not all devices of a fleet are to be compared in the same second.
    """
    running = [one.until for one in others if one.since <= now < one.until]
    return min(running, default=now + _every() * random.uniform(SOONEST, 1))  # noqa: S311


def _agrees(said: Facts, held: Facts) -> bool:
    return all(held.get(name, value) == value for name, value in said.items())


def _held(device: Any, report: Report, changes: Changes) -> Facts:
    """What the database holds of that which the device said in this batch."""
    told = report.facts | {name: reported.value for name, reported in report.firmware.items()}
    return {name: changes.get(name, getattr(device, name)) for name in told}


def _merged(
    said: Iterable[_Said], devices: Mapping[str, Any], now: dt.datetime
) -> dict[str, Report]:
    """By serial number: when last heard, the newest facts, the newest firmware properties."""
    reports: dict[str, Report] = {}
    for message, facts, firmware in sorted(said, key=lambda one: one.message.at):
        # The broker keeps no osd for us: whoever sends it lives, whatever its clock says.
        heard_at = message.received_at if message.kind is Kind.OSD else message.at
        report = reports.get(message.sn, Report(heard_at, {}, {}))
        is_current = bool(facts) and _is_current(message, heard_at, devices[message.sn], now)
        told = {name: Reported(value, message) for name, value in firmware.items()}
        reports[message.sn] = Report(
            max(heard_at, report.heard_at),
            report.facts | (facts if is_current else {}),
            report.firmware | told,
        )
    return reports


def _is_current(
    message: Message[Properties], heard_at: dt.datetime, device: Any, now: dt.datetime
) -> bool:
    """Whether the facts of a message hold now: what came late, or from before a start, does not."""
    late = now - heard_at
    if late > _silence() or is_overtaken(message, device.topology_at, device.topology_seen_at):
        return False
    # Of two bridges one may hang with osd in its memory. Osd repeats itself, so that nothing is lost.
    brief = dt.timedelta() if settings.MQTT_SHARED_GROUP else BRIEF
    if message.kind is not Kind.OSD or late <= brief:
        return True
    known = device.last_seen_at if late > LATE else device.changed_at
    return known is None or known <= heard_at


def _facts(data: Properties) -> dict[str, Any]:
    found = {name: _at(data, path) for name, path in _FACTS.items()}
    if found["battery_percent"] is None:
        found["battery_percent"] = _at(data, _BATTERY)
    return {name: value for name, value in found.items() if value is not None}


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        data = getattr(data, name, None)
    return int(data) if isinstance(data, bool) else data


def _firmware(data: Properties) -> Facts:
    """The firmware properties of one message; an empty version says nothing."""
    values = {
        "firmware_version": versions.reported(data.firmware_version or "") or None,
        "compatible_status": _at(data, ("compatible_status",)),
        "firmware_upgrade_status": _at(data, ("firmware_upgrade_status",)),
    }
    return {name: value for name, value in values.items() if value is not None}


def _changes(device: Any, report: Report, now: dt.datetime) -> Changes:
    changes = {
        name: value for name, value in report.facts.items() if getattr(device, name) != value
    }
    for name, reported in report.firmware.items():
        changes |= _firmware_change(device, name, reported, now)
    # Only storage changes all the time; it releases somebody when it gets emptier.
    if changes.keys() - {"storage_used"} or _is_emptier(device, changes):
        changes["changed_at"] = now
    return changes | heard(device, report.heard_at, now)


def _is_emptier(device: Any, changes: Changes) -> bool:
    used: int | None = changes.get("storage_used")
    return used is not None and used < (device.storage_used or 0)


def _firmware_change(device: Any, name: str, reported: Reported, now: dt.datetime) -> Changes:
    """The property with its times.

    A repeated value is written too: a fresh report may be a proof. Older aircraft repeat theirs
    in each osd; of those one that is compared is enough.
    """
    message = reported.message
    last: dt.datetime | None = getattr(device, _ORDERED[name])
    if is_overtaken(message, last, getattr(device, _SEEN[name])):
        return {}
    if message.is_again and last and message.at <= last:
        return {}  # known since it came the first time, which may be long ago
    same = getattr(device, name) == reported.value
    repeats = message.kind is Kind.OSD and last and message.at - last < REPEATED_EVERY
    if same and repeats:
        return {}
    changes: Changes = {name: reported.value, _ORDERED[name]: message.at, _SEEN[name]: now}
    if name == "firmware_version":
        changes["firmware_number"] = versions.number(reported.value) or 0
    return changes
