"""From the connection to being online: licence, binding, topology, first state. DJI Cloud API: dock onboarding."""

import logging
from typing import Annotated

import msgspec

from simulator.devices import Device
from simulator.rig import Rig
from simulator.voice import is_success

log = logging.getLogger(__name__)

TOPOLOGY_PAUSE = 30.0  # real seconds between attempts when nobody has acknowledged the topology


_Given = Annotated[str, msgspec.Meta(min_length=1)]


class NoLicenceError(Exception):
    """The server answers `config` without a licence: the dock has to leave the broker."""


class _Licence(msgspec.Struct):
    """The whole `data` of the reply to `config`."""

    app_id: _Given
    app_key: _Given
    app_license: _Given
    ntp_server_host: str = ""
    ntp_server_port: int = 123


class _Bound(msgspec.Struct):
    sn: str = ""
    is_device_bind_organization: bool = False


class _BoundOutput(msgspec.Struct):
    bind_status: list[_Bound] = []


class _BindError(msgspec.Struct):
    sn: str = ""
    err_code: int = 0


class _BindOutput(msgspec.Struct):
    err_infos: list[_BindError] = []


class _BoundAnswer(msgspec.Struct):
    output: _BoundOutput
    result: int = 0


class _BindAnswer(msgspec.Struct):
    output: _BindOutput
    result: int = 0


async def introduce(rig: Rig) -> bool:
    """Do everything up to the first `state`; return whether the server acknowledged the topology.

    A server that does not answer is left behind with a log line: it may only be listening.
    Raises LinkLostError, and NoLicenceError when it answers without a licence.
    """
    await _verify_licence(rig)
    await _bind_if_needed(rig)
    is_acknowledged = await announce(rig)
    await report_firmware(rig)
    return is_acknowledged


async def announce(rig: Rig) -> bool:
    """Send `update_topo`; return whether it was acknowledged. Raises LinkLostError."""
    return is_success(await rig.voice.ask("status", "update_topo", topology(rig)))


async def report_firmware(rig: Rig) -> None:
    """Push the firmware properties of each powered device. Raises LinkLostError."""
    for device in rig.pair.powered:
        await rig.voice.send(*rig.state(device, device.firmware))


def topology(rig: Rig) -> dict[str, object]:
    """Return the `data` of `update_topo`; a sleeping aircraft is not listed."""
    pair, version = rig.pair, rig.spec.thing_version
    aircraft = [{"sn": pair.aircraft.sn, "index": "A"} | _part(pair.aircraft, "0", version)]
    return _part(pair.dock, "3", version) | {"sub_devices": aircraft if pair.is_aircraft_on else []}


def _part(device: Device, domain: str, thing_version: str) -> dict[str, object]:
    type_, sub_type = device.type_numbers
    return {
        "domain": domain,
        "type": type_,
        "sub_type": sub_type,
        "device_secret": "simulated",
        "nonce": "simulated",
        "thing_version": thing_version,
    }


async def _verify_licence(rig: Rig) -> None:
    asked = {"config_type": "json", "config_scope": "product"}
    answer = await rig.voice.ask("requests", "config", asked)
    if answer is None:
        return
    try:
        msgspec.convert(answer, _Licence)
    except msgspec.ValidationError as error:
        raise NoLicenceError(str(error)) from error


async def _bind_if_needed(rig: Rig) -> None:
    devices = [{"sn": rig.pair.aircraft.sn}, {"sn": rig.pair.dock.sn}]
    answer = await rig.voice.ask("requests", "airport_bind_status", {"devices": devices})
    if answer is None or _is_bound(answer, rig.spec.sn):
        return
    if not rig.options.organization:
        log.warning("%s: not bound, and no organization was given", rig.spec.sn)
        return
    await _bind(rig)


def _is_bound(answer: object, sn: str) -> bool:
    try:
        devices = msgspec.convert(answer, _BoundAnswer, strict=False).output.bind_status
    except msgspec.ValidationError:
        return False
    return any(device.sn == sn and device.is_device_bind_organization for device in devices)


async def _bind(rig: Rig) -> None:
    code = {
        "device_binding_code": rig.options.code,
        "organization_id": rig.options.organization,
    }
    await rig.voice.ask("requests", "airport_organization_get", code)
    spec = rig.spec
    callsigns = ((rig.pair.dock, spec.callsign), (rig.pair.aircraft, spec.aircraft_callsign))
    devices = [
        code | {"device_callsign": callsign, "sn": device.sn, "device_model_key": device.model_key}
        for device, callsign in callsigns
    ]
    answer = await rig.voice.ask("requests", "airport_organization_bind", {"bind_devices": devices})
    _log_refusals(answer, spec.sn)


def _log_refusals(answer: object, sn: str) -> None:
    try:
        bound = msgspec.convert(answer, _BindAnswer, strict=False)
    except msgspec.ValidationError:
        log.warning("%s: the answer to its binding cannot be read", sn)
        return
    for error in bound.output.err_infos:
        if error.err_code:
            log.warning("%s: %s was not bound, code %d", sn, error.sn, error.err_code)
