"""A dock's way into an organization: what it asks for when it is set up (Cloud API: requests)."""

import datetime as dt
import hmac
import logging
from typing import Any

from django.conf import settings
from django.db.models import F, Q

from fleet import claims
from fleet.models import Device, DeviceModel, DeviceQuerySet, Organization
from fleet.names import in_one_line
from fleet.telemetry import known
from mqtt_bridge.envelope import Few, Message, Part, Text, result
from mqtt_bridge.topics import SN

logger = logging.getLogger(__name__)

# The codes that the vendor's sample server answers.
NO_CODE = 200001
UNKNOWN_CODE = 210230
BIND_FAILED = 210231
BOUND_ELSEWHERE = 210232

ATTEMPTS = 5
BLOCKED_FOR = dt.timedelta(minutes=15)


def missing_of_app() -> str:
    """Which variables of the Cloud API app are not set, with "is" or "are"; without them no dock binds."""
    names = ("DJI_APP_ID", "DJI_APP_KEY", "DJI_APP_LICENSE")
    missing = [name for name in names if not getattr(settings, name)]
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb}" if missing else ""


class DeviceNamed(Part, frozen=True):
    sn: Text = ""


class StatusRequest(Part, frozen=True):
    """``airport_bind_status``: which of these are bound?"""

    devices: Few[DeviceNamed] = []


class OrganizationRequest(Part, frozen=True):
    """``airport_organization_get``: what the operator typed into the remote controller."""

    device_binding_code: Text = ""
    organization_id: Text = ""


class Binding(Part, frozen=True):
    """One device that wants to be bound."""

    sn: Text = ""
    device_binding_code: Text = ""
    organization_id: Text = ""
    device_callsign: Text = ""
    device_model_key: Text = ""


class BindRequest(Part, frozen=True):
    """``airport_organization_bind``: a dock, its aircraft, or both."""

    bind_devices: Few[Binding] = []


def status(message: Message[StatusRequest]) -> dict[str, Any]:
    """``data`` of the reply to ``airport_bind_status``."""
    asked = [device.sn for device in message.data.devices]
    found = {d.sn: d for d in Device.objects.filter(sn__in=asked).select_related("organization")}
    visible = {sn: device for sn, device in found.items() if _may_speak_for(message.sn, device)}
    return result(0, bind_status=[_bind_status(message.sn, sn, visible.get(sn)) for sn in asked])


def organization(message: Message[OrganizationRequest], now: dt.datetime) -> dict[str, Any]:
    """``data`` of the reply to ``airport_organization_get``; errors come with a text as output."""
    asked = message.data
    if not asked.device_binding_code.strip():
        return {"result": NO_CODE, "output": "the binding code is empty"}
    found = _check_code(message.sn, asked.organization_id, asked.device_binding_code, now)
    if found is None:
        return {"result": UNKNOWN_CODE, "output": "unknown organization or binding code"}
    return result(0, organization_name=found.name)


def bind(message: Message[BindRequest], now: dt.datetime) -> dict[str, Any]:
    """``data`` of the reply to ``airport_organization_bind``: an error code for each device."""
    # The dock before its aircraft, which may come only with it.
    wanted = sorted(message.data.bind_devices, key=lambda binding: binding.sn != message.sn)
    codes = {binding.sn: _bind(message.sn, binding, now) for binding in wanted}
    infos = [{"sn": b.sn, "err_code": codes[b.sn]} for b in message.data.bind_devices]
    return result(0, err_infos=infos)


def adopt(devices: DeviceQuerySet, organization: Organization, now: dt.datetime) -> list[Device]:
    """Claims unclaimed devices, docks with their aircraft; returns those that were claimed.

    A dock that belongs to the organization already brings what is unclaimed behind it, one of another
    organization nothing.
    """
    chosen = set(devices.filter(organization=None).values_list("pk", flat=True))
    ours = devices.filter(Q(organization=None) | Q(organization=organization))
    claimed = list(ours.with_aircraft().filter(organization=None))
    keys = {device.pk for device in claimed}
    unclaimed = Device.objects.filter(organization=None)
    values = {"organization": organization, "changed_at": now}
    unclaimed.filter(pk__among=keys & chosen).update(bound_at=now, **values)
    unclaimed.filter(pk__among=keys - chosen).update(**values)
    return claimed


def _bind(sender: str, binding: Binding, now: dt.datetime) -> int:
    """Binds one device; returns the error code, 0 for bound."""
    found = _check_code(sender, binding.organization_id, binding.device_binding_code, now)
    if found is None or not SN.fullmatch(binding.sn):
        return BIND_FAILED
    device = _locked(binding.sn)
    is_free = device.sn == sender and not device.is_bound
    if device.organization_id not in {None, found.pk} and not is_free:
        claims.tell_refused(sender, device.sn, "it belongs to another organization")
        return BOUND_ELSEWHERE
    if reason := _refusal(sender, binding, device):
        claims.tell_refused(sender, device.sn, reason)
        return BIND_FAILED
    if device.sn == sender:
        _bind_itself(device, binding, found, now)
    else:
        _store(device, binding, {"organization": found, "changed_at": now})
    return 0


def _locked(sn: str) -> Device:
    """The device, unchanged until we are done: this very moment it may tell that it is a dock."""
    device = known([sn])[0]
    return Device.objects.select_for_update(no_key=True).get(pk=device.pk)


def _refusal(sender: str, binding: Binding, device: Device) -> str:
    """Why a dock may not bind a device; empty if it may. What it brings has to be an aircraft."""
    if device.sn == sender:
        return ""
    if not _may_speak_for(sender, device):
        return "it is not its own aircraft"
    key = binding.device_model_key
    says_so = _model_key_fits(key) and DeviceModel.kind_of(key) == DeviceModel.Kind.AIRCRAFT
    if not says_so and (key or not device.is_aircraft):
        return "it does not say that it is an aircraft"
    return ""


def _bind_itself(device: Device, binding: Binding, found: Organization, now: dt.datetime) -> None:
    """Binds a dock with its own code, whatever another one has said of it."""
    if device.organization_id not in {None, found.pk}:
        _take_out(device, now)
    if device.is_aircraft:
        device.model = None
    itself = {"model_id": device.model_id, "gateway": None, "bound_at": now}
    _store(device, binding, {"organization": found, "changed_at": now} | itself)


def _take_out(device: Device, now: dt.datetime) -> None:
    """Ends what was no binding, also for the aircraft that came with the device."""
    brought = device.aircraft.filter(organization=device.organization_id, bound_at=None)
    for taken in (device, *brought):
        claims.tell_taken(taken)
    nobodys = {"organization": None, "site": None, "changed_at": now}
    brought.update(**nobodys)
    Device.objects.filter(pk=device.pk).update(**nobodys)


def _store(device: Device, binding: Binding, values: dict[str, Any]) -> None:
    if callsign := in_one_line(binding.device_callsign).strip():
        values["callsign"] = callsign
    if device.model_id is None and _model_key_fits(binding.device_model_key):
        key = binding.device_model_key
        values["model_id"] = DeviceModel.objects.ids_by_key([key])[key]
    Device.objects.filter(pk=device.pk).update(**values)


def _check_code(sender: str, identifier: str, code: str, now: dt.datetime) -> Organization | None:
    """The organization if the code is its own. A dock that guesses is blocked for a while."""
    dock = known([sender])[0]
    if dock.binding_blocked_until and dock.binding_blocked_until > now:
        logger.warning(
            "dock %s is blocked from binding until %s", sender, dock.binding_blocked_until
        )
        return None
    found = Organization.objects.filter(identifier=identifier.strip()).first()
    expected = (
        found.binding_code if found else Organization._meta.get_field("binding_code").get_default()
    )
    if hmac.compare_digest(code.strip().encode(), expected.encode()) and found:
        Device.objects.filter(pk=dock.pk).update(failed_binds=0, binding_blocked_until=None)
        return found
    _count_failure(dock, now)
    return None


def _count_failure(dock: Device, now: dt.datetime) -> None:
    Device.objects.filter(pk=dock.pk).update(failed_binds=F("failed_binds") + 1)
    exhausted = Device.objects.filter(pk=dock.pk, failed_binds__gte=ATTEMPTS)
    if exhausted.update(failed_binds=0, binding_blocked_until=now + BLOCKED_FOR):
        logger.warning(
            "dock %s sent %d wrong binding codes; blocked for a while", dock.sn, ATTEMPTS
        )


def _may_speak_for(sender: str, device: Device) -> bool:
    """A dock speaks for itself, for its own aircraft, and for an aircraft that is nobody's yet."""
    if device.sn == sender or (device.gateway and device.gateway.sn == sender):
        return True
    is_aircraft = device.kind in {DeviceModel.Kind.AIRCRAFT, DeviceModel.Kind.UNKNOWN}
    return is_aircraft and device.gateway_id is None and device.topology_at is None


def _model_key_fits(key: str) -> bool:
    parts = key.split("-")
    return (
        len(key) <= 40
        and len(parts) == 3
        and all(part.isascii() and part.isdigit() for part in parts)
    )


def _bind_status(sender: str, sn: str, device: Device | None) -> dict[str, Any]:
    """A dock that only another one has brought into an organization learns that it is not bound."""
    owner = device.organization if device and (device.is_bound or sn != sender) else None
    return {
        "sn": sn,
        "is_device_bind_organization": owner is not None,
        "organization_id": owner.identifier if owner else "",
        "organization_name": owner.name if owner else "",
        "device_callsign": device.callsign if device else "",
    }
