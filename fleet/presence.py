"""Topology: which docks are online with which aircraft, as ``update_topo`` tells."""

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.conf import settings
from django.db.models import Q

from database import bulk
from fleet import claims, telemetry
from fleet.models import Device, DeviceModel
from fleet.telemetry import known
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Few, Int, Message, Part, Text, is_overtaken
from mqtt_bridge.models import BridgeSession
from mqtt_bridge.topics import SN

logger = logging.getLogger(__name__)

AIRCRAFT = 0  # domain


class Product(Part, frozen=True):
    """A product's numbers; older firmware leaves the domain out."""

    sn: Text = ""
    domain: Int | None = None
    type: Int | None = None
    sub_type: Int | None = None

    def key(self, domain: int) -> str | None:
        """The model key; ``domain`` stands in where none was told."""
        if self.type is None:
            return None
        told = domain if self.domain is None else self.domain
        return f"{told}-{self.type}-{self.sub_type or 0}"


class Topology(Product, frozen=True):
    """``data`` of ``update_topo``: a dock and, if it is on, its aircraft; always the whole truth."""

    thing_version: Text = ""
    sub_devices: Few[Product] | None = None


def update(messages: Sequence[Message[Topology]], now: dt.datetime) -> None:
    """Docks come online, aircraft follow the dock that named them last.

    A constant number of statements: after an outage of the broker all docks of a fleet come at once.
    """
    newest = {message.sn: message for message in sorted(messages, key=lambda message: message.at)}
    fleet = _Fleet(newest.values(), now)
    for message in newest.values():
        gateway = fleet.devices[message.sn]
        if not _is_known(message, gateway):
            _update_gateway(gateway, message, fleet)
            _update_children(gateway, message, fleet)
    fleet.save()


def _is_known(message: Message[Topology], gateway: Device) -> bool:
    """Whether the dock said it before what counts, or the broker sends again what does."""
    last = gateway.topology_at
    is_repeated = message.is_again and last is not None and message.at <= last
    return is_repeated or is_overtaken(message, last, gateway.topology_seen_at)


class _Fleet:
    """The devices that topologies are about, and what changes in them."""

    def __init__(self, messages: Collection[Message[Topology]], now: dt.datetime) -> None:
        self.now = now
        self.is_live = BridgeSession.objects.have_caught_up(now)
        children = {child.sn for message in messages for child in _children(message)}
        named = [device.pk for device in known({message.sn for message in messages} | children)]
        # In one order, and before anything is decided: somebody else may hear of the same aircraft
        # from its other dock this very moment. A key stays free, as everywhere (``no_key``).
        concerned = Device.objects.filter(Q(pk__among=named) | Q(gateway__among=named))
        locked = concerned.order_by("pk").select_for_update(no_key=True)
        # One object for each device, so that a message sees what the one before it changed.
        self.devices = {device.sn: device for device in locked}
        telemetry.forget(self.devices)
        self.models = DeviceModel.objects.ids_by_key(_keys(messages))
        known_models = {device.model_id for device in locked if device.model_id}
        used = known_models | {*self.models.values()}
        self.kinds = dict(DeviceModel.objects.filter(pk__in=used).values_list("pk", "kind"))
        self._behind: defaultdict[int | None, set[str]] = defaultdict(set)
        for device in self.devices.values():
            self._behind[device.gateway_id].add(device.sn)
        self._rows: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        self._started: list[int] = []
        self._alone: list[int] = []
        self._free: list[int] = []

    def kind(self, device: Device) -> str:
        return self.kinds.get(device.model_id or 0, DeviceModel.Kind.UNKNOWN)

    def set(self, device: Device, **values: Any) -> None:
        """Sets fields, foreign keys as ``name_id``; None leaves what is there."""
        for name, value in values.items():
            if value is not None:
                setattr(device, name, value)
                self._rows[device.pk][name] = value

    def start(self, device: Device) -> None:
        """It comes online, and what it said before about its state is forgotten."""
        self._started.append(device.pk)
        seen = {"online_since": self.now, "last_seen_at": self.now, "changed_at": self.now}
        self.set(device, presence=Device.Presence.ONLINE, **seen)

    def put_behind(self, gateway: Device, device: Device) -> None:
        self._behind[device.gateway_id].discard(device.sn)
        self._behind[gateway.pk].add(device.sn)
        self.set(device, gateway_id=gateway.pk)

    def release(self, device: Device) -> None:
        """It is behind no dock any more."""
        if device.gateway_id is not None:
            self._behind[device.gateway_id].discard(device.sn)
            self._alone.append(device.pk)
            device.gateway_id = None
            self._rows[device.pk].pop("gateway_id", None)

    def behind(self, gateway: Device) -> list[Device]:
        return [self.devices[sn] for sn in sorted(self._behind[gateway.pk])]

    def take_out(self, device: Device) -> None:
        """It is in no organization any more, nor is what is bound by nothing but being behind it."""
        brought = [one for one in self.behind(device) if one.bound_at is None]
        taken = [one for one in brought if one.organization_id == device.organization_id]
        for one in (device, *taken):
            claims.tell_taken(one)
            self._free.append(one.pk)
            one.organization_id = one.site_id = one.bound_at = None
            self._rows[one.pk].pop("organization_id", None)
            self.set(one, changed_at=self.now)

    def save(self) -> None:
        for pks, values in (
            (self._started, Device.UNKNOWN_FACTS),
            (self._alone, {"gateway": None}),
            (self._free, {"organization": None, "site": None, "bound_at": None}),
        ):
            if pks:
                Device.objects.filter(pk__among=pks).update(**values)
        bulk.update(Device, _COLUMNS, self._rows)


_COLUMNS = (
    *("model_id", "thing_version", "gateway_id", "organization_id", "topology_at"),
    *(
        "topology_seen_at",
        "topology_is_live",
        "presence",
        "online_since",
        "last_seen_at",
        "changed_at",
    ),
)


def _update_gateway(gateway: Device, message: Message[Topology], fleet: _Fleet) -> None:
    is_bound = gateway.is_bound_as(fleet.kind(gateway))  # as others may have called it so far
    fleet.set(
        gateway,
        model_id=fleet.models.get(message.data.key(3) or ""),
        thing_version=message.data.thing_version,
    )
    fleet.release(gateway)
    is_aircraft = fleet.kind(gateway) == DeviceModel.Kind.AIRCRAFT
    if gateway.organization_id and not is_bound and not is_aircraft:
        fleet.take_out(gateway)
    _come_online(gateway, message, fleet)


def _update_children(gateway: Device, message: Message[Topology], fleet: _Fleet) -> None:
    """The named aircraft come online behind this dock; one that is not named any more is off.

    A dock with an aircraft that is switched off names none: the aircraft stays its own.
    """
    if "sub_devices" in message.dropped:
        return
    named = _children(message)
    for child in named:
        _adopt_child(gateway, child, message, fleet)
    for other in fleet.behind(gateway):
        if other.sn not in {child.sn for child in named}:
            fleet.set(other, presence=Device.Presence.OFF, changed_at=fleet.now)
            if named:
                fleet.release(other)


def _adopt_child(
    gateway: Device, product: Product, message: Message[Topology], fleet: _Fleet
) -> None:
    child, model_id = fleet.devices[product.sn], fleet.models.get(product.key(AIRCRAFT) or "")
    if reason := _refusal(gateway, child, model_id, message, fleet):
        metrics.count("refused_children", reason=reason)
        logger.warning("dock %s may not name %s as its aircraft: %s", gateway.sn, child.sn, reason)
        return
    fleet.put_behind(gateway, child)
    organization_id = child.organization_id or gateway.organization_id
    fleet.set(child, model_id=model_id, organization_id=organization_id)
    _come_online(child, message, fleet)


def _refusal(
    gateway: Device,
    child: Device,
    model_id: int | None,
    message: Message[Topology],
    fleet: _Fleet,
) -> str:
    """Why a dock may not say that this device is its aircraft; empty if it may."""
    kinds = {fleet.kinds[known] for known in (child.model_id, model_id) if known}
    if child.pk == gateway.pk or kinds - {DeviceModel.Kind.AIRCRAFT, DeviceModel.Kind.UNKNOWN}:
        return "it is no aircraft"
    if child.bound_at and fleet.kind(child) != DeviceModel.Kind.AIRCRAFT:
        return "it is bound itself"
    if child.organization_id and child.organization_id != gateway.organization_id:
        return "it belongs to another organization"
    if is_overtaken(message, child.topology_at, child.topology_seen_at):
        return "another dock named it later"
    return ""


def _come_online(device: Device, message: Message[Topology], fleet: _Fleet) -> None:
    """Each topology counts as a fresh start: a device needs some seconds before it takes commands.

    One that the broker kept for us says nothing about now. If its sender is heard all the same, it is
    its clock that is behind, as after a start.
    """
    fleet.set(device, topology_at=message.at, topology_seen_at=fleet.now)
    fleet.set(device, topology_is_live=fleet.is_live)
    is_heard = device.is_online and not telemetry.is_silent(device.last_seen_at, fleet.now)
    if is_heard or fleet.now - message.at <= dt.timedelta(seconds=settings.OFFLINE_AFTER):
        fleet.start(device)


def _children(message: Message[Topology]) -> list[Product]:
    """The aircraft that the dock names: one at most, whatever it says."""
    return [child for child in message.data.sub_devices or [] if _possible(child.sn)][:1]


def _possible(sn: str) -> bool:
    return SN.fullmatch(sn) is not None


def _keys(messages: Iterable[Message[Topology]]) -> set[str]:
    keys = {message.data.key(3) for message in messages}
    keys |= {child.key(AIRCRAFT) for message in messages for child in _children(message)}
    return {key for key in keys if key}
