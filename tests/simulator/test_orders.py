"""What a dock accepts as `ota_create`, and with which code it refuses the rest."""

from dataclasses import replace
from typing import Any

import pytest

from simulator import faults, orders
from simulator.devices import Pair
from simulator.fleet import plan
from simulator.memory import Memory

DOCK, AIRCRAFT = "7CTDK2SIM0002", "1581F6QSIM0002"


def pair(fault: str | None = None) -> Pair:
    return Pair.from_spec(plan(3, {fault: 3} if fault else {})[1], Memory())


def target(sn: str = DOCK, **changes: Any) -> dict[str, Any]:
    return {
        "sn": sn,
        "product_version": "10.01.3206",
        "file_url": "http://files.test/fw.zip",
        "md5": "0123456789abcdef" * 2,
        "file_size": 3_000_000_000,
        "file_name": "DOCK2_V10.01.3206.zip",
        "firmware_upgrade_type": 3,
    } | changes


def refusal(data: object, of: Pair) -> int:
    with pytest.raises(orders.Refused) as caught:
        orders.read(data, of)
    return caught.value.code


@pytest.mark.parametrize("sns", [[DOCK], [AIRCRAFT], [AIRCRAFT, DOCK]])
def test_a_dock_takes_an_order_for_itself_its_aircraft_or_both(sns: list[str]) -> None:
    order = orders.read({"devices": [target(sn) for sn in sns]}, pair())
    assert order.sns == set(sns)


@pytest.mark.parametrize("key", list(target()))
def test_none_of_the_seven_fields_may_be_missing(key: str) -> None:
    device = target()
    del device[key]
    assert refusal({"devices": [device]}, pair()) == 312012


@pytest.mark.parametrize(
    "change",
    [
        {"sn": "7CTDK2SIM0005"},
        {"product_version": "1.00.223"},
        {"product_version": "10.01.32.06"},
        {"product_version": "10.01.3206\n"},
        {"file_url": "ftp://files.test/fw.zip"},
        {"file_url": ""},
        {"md5": "0123456789abcdef"},
        {"md5": "g" * 32},
        {"file_size": "3000"},
        {"file_size": 0},
        {"file_name": "firmware.tar"},
        {"firmware_upgrade_type": 1},
        {"firmware_upgrade_type": 4},
        {"firmware_upgrade_type": "3"},
    ],
)
def test_a_field_of_the_wrong_shape_is_refused(change: dict[str, Any]) -> None:
    assert refusal({"devices": [target(**change)]}, pair()) == 312012


@pytest.mark.parametrize(
    "data",
    [None, "", {}, {"devices": []}, {"devices": [target(), target()]},
     {"devices": [target(), target(AIRCRAFT), target("X")]}, {"devices": {}}],
)  # fmt: skip
def test_a_command_without_one_or_two_own_devices_is_refused(data: object) -> None:
    assert refusal(data, pair()) == 312012


@pytest.mark.parametrize(
    ("fault", "sn", "code"),
    [
        ("busy", DOCK, 312015),
        ("emergency-stop", DOCK, 514121),
        ("4g", DOCK, 312030),
        ("aircraft-out", AIRCRAFT, 312027),
        ("low-battery", AIRCRAFT, 312704),
    ],
)
def test_a_dock_refuses_with_the_code_of_its_condition(fault: str, sn: str, code: int) -> None:
    assert refusal({"devices": [target(sn)]}, pair(fault)) == code


@pytest.mark.parametrize("fault", ["aircraft-out", "low-battery"])
def test_the_aircraft_does_not_matter_when_only_the_dock_is_upgraded(fault: str) -> None:
    assert orders.read({"devices": [target()]}, pair(fault)).sns == {DOCK}


@pytest.mark.parametrize(("percent", "is_refused"), [(20, True), (21, False)])
def test_a_battery_has_to_be_above_twenty_percent(percent: int, is_refused: bool) -> None:
    of = pair()
    of.condition = replace(faults.FINE, battery_percent=percent)
    data = {"devices": [target(AIRCRAFT)]}
    if is_refused:
        assert refusal(data, of) == 312704
    else:
        orders.read(data, of)


def test_a_consistency_upgrade_that_nobody_asked_for_is_refused() -> None:
    data = {"devices": [target(AIRCRAFT, firmware_upgrade_type=2)]}
    assert refusal(data, pair()) == 312001
    assert orders.read(data, pair("consistency")).sns == {AIRCRAFT}


def test_a_running_upgrade_refuses_a_second() -> None:
    of = pair()
    of.begin({AIRCRAFT})
    assert refusal({"devices": [target()]}, of) == 312014
    of.end()
    orders.read({"devices": [target()]}, of)


def test_fields_that_no_document_names_are_ignored() -> None:
    assert orders.read({"devices": [target(future=1)], "more": 2}, pair()).sns == {DOCK}
