"""Reads `ota_create` as strictly as a dock does, and says why a dock would refuse it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from simulator.devices import Pair

LOWEST_BATTERY = 20  # percent; at or below it an aircraft is not upgraded
CONSISTENCY = 2

# Result codes of the device. DJI Cloud API: error codes, group 312 (firmware) and dock codes.
NOT_ASKED_FOR = 312001
MALFORMED = 312010
INVALID = 312012
RUNNING = 312014
BUSY = 312015
NO_AIRCRAFT = 312027
ENHANCED_LINK = 312030
BATTERY_LOW = 312704
EMERGENCY_STOP = 514121


class Target(msgspec.Struct, frozen=True):
    """One device of a command; all seven fields are needed. `file_size` in bytes."""

    sn: str
    product_version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2}\.[0-9]{2}\.[0-9]{4}\Z")]
    file_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+\S*\Z")]
    md5: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    file_size: Annotated[int, msgspec.Meta(gt=0)]
    file_name: Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+\.zip\Z")]
    firmware_upgrade_type: Literal[2, 3]


class _Devices(msgspec.Struct, frozen=True):
    devices: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1, max_length=2)]


@dataclass(frozen=True)
class Order:
    """A command that a dock understood: what to install on itself, on its aircraft, or on both."""

    targets: tuple[Target, ...]

    @property
    def sns(self) -> frozenset[str]:
        return frozenset(target.sn for target in self.targets)


class Refused(Exception):
    """The dock says no; `code` is the `result` of its reply."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


def read(data: object, pair: Pair) -> Order:
    """Return the order in the `data` of `ota_create`, or raise Refused with the code of the device.

    Source: DJI Cloud API: ota_create, and the list of error codes.
    """
    order = _understand(data, pair)
    _check_dock(pair)
    if pair.aircraft.sn in order.sns:
        _check_aircraft(pair)
    _check_consistency(order, pair)
    return order


def _understand(data: object, pair: Pair) -> Order:
    try:
        order = Order(msgspec.convert(data, _Devices).devices)
    except msgspec.ValidationError:
        raise Refused(INVALID) from None
    if len(order.sns) < len(order.targets) or not order.sns <= pair.sns:
        raise Refused(INVALID)
    return order


def _check_dock(pair: Pair) -> None:
    if pair.is_upgrading:
        raise Refused(RUNNING)
    if pair.condition.emergency_stop_state:
        raise Refused(EMERGENCY_STOP)
    if pair.mode_code != 0:
        raise Refused(BUSY)
    if pair.condition.link_workmode == 1:
        raise Refused(ENHANCED_LINK)


def _check_aircraft(pair: Pair) -> None:
    if not pair.condition.drone_in_dock:
        raise Refused(NO_AIRCRAFT)
    if pair.condition.battery_percent <= LOWEST_BATTERY:
        raise Refused(BATTERY_LOW)


def _check_consistency(order: Order, pair: Pair) -> None:
    for target in order.targets:
        is_asked_for = pair.device(target.sn).compatible_status == 1
        if target.firmware_upgrade_type == CONSISTENCY and not is_asked_for:
            raise Refused(NOT_ASKED_FOR)
