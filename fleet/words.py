"""What the numbers that devices report mean, in words (Cloud API: properties of docks and aircraft).

Devices send numbers that no document names: those are shown as they are.
"""

from typing import Any

from django.contrib.admin import display

from console.sizes import shown_size
from fleet import modes
from fleet.models import Device

_FLIGHT_TASKS = {
    0: "preparing",
    1: "in flight",
    2: "recovering after the flight",
    3: "updating flight areas",
    4: "updating obstacle or terrain data",
    5: "none",
    255: "the aircraft is abnormal",
    256: "unknown",
}
_MODES = {"dock": modes.DOCK, "aircraft": modes.AIRCRAFT}

Words = dict[int, str]


@display(description="mode")
def mode(device: Device) -> str:
    return _word(_MODES.get(device.kind, {}), device.mode_code)


@display(description="flight task")
def flight_task(device: Device) -> str:
    return _word(_FLIGHT_TASKS, device.flighttask_step_code)


@display(description="aircraft in the dock")
def aircraft_inside(device: Device) -> str:
    return _word({0: "outside", 1: "inside"}, device.drone_in_dock)


@display(description="emergency stop")
def emergency_stop(device: Device) -> str:
    return _word({0: "released", 1: "pressed"}, device.emergency_stop_state)


@display(description="transmission")
def transmission(device: Device) -> str:
    return _word({0: "SDR only", 1: "4G enhanced"}, device.link_workmode)


@display(description="modules")
def modules(device: Device) -> str:
    """``compatible_status``: whether a module differs from the device's version."""
    words = {0: "modules match", 1: "a module differs, consistency upgrade needed"}
    return _word(words, device.compatible_status)


@display(description="upgrade state")
def own_upgrade(device: Device) -> str:
    """``firmware_upgrade_status``: a hint only, some models report it wrongly."""
    return _word({0: "not upgrading", 1: "upgrading"}, device.firmware_upgrade_status)


@display(description="aircraft that the dock knows")
def known_aircraft(device: Device) -> str:
    """What a dock says about its aircraft: which one, on or off, paired or not."""
    if not device.sub_device_sn:
        return ""
    parts = [
        device.sub_device_sn,
        _word({0: "off", 1: "on"}, device.sub_device_online),
        _word({0: "not paired", 1: "paired"}, device.sub_device_paired),
    ]
    return ", ".join(part for part in parts if part)


@display(description="aircraft's battery")
def battery(device: Device) -> str:
    return "" if device.battery is None else f"{device.battery} %"


@display(description="dock's storage")
def storage(device: Device) -> str:
    """Free and total, from KB."""
    if device.storage_total is None or device.storage_used is None:
        return ""
    free = device.storage_total - device.storage_used
    return f"{shown_size(1024 * free)} of {shown_size(1024 * device.storage_total)} free"


# For the device's page; Django's admin takes functions for fields, its types know names only.
FIRMWARE: list[Any] = [modules, own_upgrade]
PREFLIGHT: list[Any] = [
    *(mode, flight_task, aircraft_inside, battery, known_aircraft),
    *(emergency_stop, transmission, storage),
]


def _word(words: Words, number: int | None) -> str:
    if number is None:
        return ""
    return words.get(number, f"number {number}")
