"""Topology: which docks are online with which aircraft, as ``update_topo`` tells."""

import datetime as dt
import logging
from collections.abc import Iterable, Sequence

import msgspec
from django.conf import settings

from fleet import telemetry
from fleet.models import Device, DeviceModel
from fleet.telemetry import known
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Few, Int, Message, Text, is_overtaken
from mqtt_bridge.topics import SN

logger = logging.getLogger(__name__)

AIRCRAFT = 0  # domain


class Product(msgspec.Struct, frozen=True):
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
    """Docks come online, aircraft follow the dock that named them last."""
    newest = {message.sn: message for message in sorted(messages, key=lambda message: message.at)}
    children = {
        child.sn
        for message in newest.values()
        for child in _children(message)
        if _possible(child.sn)
    }
    devices = {device.sn: device for device in known({*newest, *children})}
    telemetry.forget(devices)
    models = DeviceModel.objects.ids_by_key(_keys(newest.values()))
    for message in newest.values():
        gateway = devices[message.sn]
        if not is_overtaken(message, gateway.topology_at, gateway.topology_seen_at):
            _update_gateway(gateway, message, models, now)
            _update_children(gateway, message, devices, models, now)


def _update_gateway(
    gateway: Device, message: Message[Topology], models: dict[str, int], now: dt.datetime
) -> None:
    key = message.data.key(3)
    gateway.model_id = models.get(key or "", gateway.model_id)
    gateway.thing_version = message.data.thing_version
    gateway.topology_at, gateway.topology_seen_at = message.at, now
    gateway.gateway_id = None
    _come_online(gateway, message.at, now)
    gateway.save(update_fields=["model", "thing_version", "gateway", *_ONLINE])


def _update_children(
    gateway: Device,
    message: Message[Topology],
    devices: dict[str, Device],
    models: dict[str, int],
    now: dt.datetime,
) -> None:
    """The named aircraft come online behind this dock; one that is not named any more is off.

    A dock with an aircraft that is switched off names none: the aircraft stays its own.
    """
    if "sub_devices" in message.dropped:
        return
    named = [child for child in _children(message) if child.sn in devices]
    for child in named:
        _adopt_child(
            gateway, devices[child.sn], message, models.get(child.key(AIRCRAFT) or ""), now
        )
    others = Device.objects.filter(gateway=gateway).exclude(sn__in=[child.sn for child in named])
    others.update(presence=Device.Presence.OFF, changed_at=now)
    if named:
        others.update(gateway=None)


def _adopt_child(
    gateway: Device,
    child: Device,
    message: Message[Topology],
    model_id: int | None,
    now: dt.datetime,
) -> None:
    child.model_id = model_id or child.model_id
    if reason := _refusal(gateway, child, message):
        metrics.count("refused_children", reason=reason)
        logger.warning("dock %s may not name %s as its aircraft: %s", gateway.sn, child.sn, reason)
        return
    child.gateway_id = gateway.pk
    child.organization_id = child.organization_id or gateway.organization_id
    child.topology_at, child.topology_seen_at = message.at, now
    _come_online(child, message.at, now)
    child.save(update_fields=["model", "gateway", "organization", *_ONLINE])


def _refusal(gateway: Device, child: Device, message: Message[Topology]) -> str:
    """Why a dock may not say that this device is its aircraft; empty if it may."""
    if child.pk == gateway.pk or child.kind not in {
        DeviceModel.Kind.AIRCRAFT,
        DeviceModel.Kind.UNKNOWN,
    }:
        return "it is no aircraft"
    if child.organization_id and child.organization_id != gateway.organization_id:
        return "it belongs to another organization"
    if is_overtaken(message, child.topology_at, child.topology_seen_at):
        return "another dock named it later"
    return ""


_ONLINE = (
    *("topology_at", "topology_seen_at", "presence", "online_since", "last_seen_at", "changed_at"),
    *Device.UNKNOWN_FACTS,
)


def _come_online(device: Device, at: dt.datetime, now: dt.datetime) -> None:
    """Each topology counts as a fresh start: a device needs some seconds before it takes commands.

    One that the broker kept for us says nothing about now.
    """
    if now - at > dt.timedelta(seconds=settings.OFFLINE_AFTER):
        return
    for name, unknown in Device.UNKNOWN_FACTS.items():
        setattr(device, name, unknown)
    device.presence = Device.Presence.ONLINE
    device.online_since = device.last_seen_at = device.changed_at = now


def _children(message: Message[Topology]) -> list[Product]:
    """The aircraft that the dock names: one at most, whatever it says."""
    return [child for child in message.data.sub_devices or [] if _possible(child.sn)][:1]


def _possible(sn: str) -> bool:
    return SN.fullmatch(sn) is not None


def _keys(messages: Iterable[Message[Topology]]) -> set[str]:
    keys = {message.data.key(3) for message in messages}
    keys |= {child.key(AIRCRAFT) for message in messages for child in _children(message)}
    return {key for key in keys if key}
