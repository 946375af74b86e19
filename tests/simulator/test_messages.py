"""The shapes of what docks say."""

import itertools
import json
from typing import Any
from uuid import UUID

import pytest

from simulator import osd, progress, wire
from simulator.devices import Pair
from simulator.fleet import plan
from simulator.memory import Memory
from simulator.progress import Report
from simulator.specs import Dialect

GENERATIONS = range(3)


def pair(generation: int = 1, fault: str | None = None) -> Pair:
    return Pair.from_spec(plan(3, {fault: 3} if fault else {})[generation], Memory())


def event(report: Report, dialect: Dialect) -> dict[str, Any]:
    message = progress.event(report, dialect, "7CTDK2SIM0002", tid="t", bid="b")
    parsed: dict[str, Any] = json.loads(message)
    return parsed


def test_status_lives_under_sys_and_the_rest_under_thing() -> None:
    assert wire.topic("A1", "status") == "sys/product/A1/status"
    assert wire.topic("A1", "events") == "thing/product/A1/events"
    assert wire.kind_of("thing/product/A1/property/set") == "property/set"


def test_a_reply_echoes_ids_and_method() -> None:
    incoming = wire.decode(b'{"tid":"t","bid":"b","timestamp":1,"method":"ota_create","data":""}')
    reply = json.loads(wire.reply(incoming, "A1", {"result": 0}))
    assert reply.pop("timestamp") > 1_700_000_000_000
    assert reply == {
        "tid": "t", "bid": "b", "gateway": "A1", "method": "ota_create", "data": {"result": 0},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["osd", "state"])
def test_a_push_has_new_ids_each_time_and_no_method(kind: Any) -> None:
    push = wire.Push("A1", kind, "D1", {"mode_code": 0})
    first, second = json.loads(push.payload()), json.loads(push.payload())
    assert set(first) == {"tid", "bid", "timestamp", "gateway", "data"}
    assert UUID(first["tid"]) != UUID(second["tid"])
    assert (push.topic, first["gateway"]) == (f"thing/product/A1/{kind}", "D1")


def test_the_documented_dialect_has_a_step_key() -> None:
    message = event(Report("in_progress", 10, "download"), "docs")
    assert message["need_reply"] == 0
    assert message["data"] == {
        "result": 0,
        "output": {
            "status": "in_progress",
            "progress": {"percent": 10, "step_key": "download_firmware"},
        },
    }


def test_the_newer_dialect_has_a_current_step_and_asks_for_no_reply() -> None:
    message = event(Report("in_progress", 45, "upgrade"), "v115")
    assert "need_reply" not in message
    assert message["data"]["output"]["progress"] == {
        "percent": 45,
        "current_step": "upgrade_firmware",
    }


@pytest.mark.parametrize(("step", "number"), [("download", 1), ("upgrade", 2)])
def test_the_oldest_dialect_numbers_its_steps_and_tells_the_rate(step: Any, number: int) -> None:
    message = event(Report("in_progress", 27, step, rate=1_843_200), "sdk")
    assert message["need_reply"] == 1
    assert message["data"]["output"]["progress"] == {"percent": 27, "current_step": number}
    assert message["data"]["output"]["ext"] == {"rate": 1_843_200}


def test_a_terminal_event_asks_for_a_reply_and_carries_the_code() -> None:
    message = event(Report("failed", 31, "upgrade", result=312028), "docs")
    assert (message["need_reply"], message["data"]["result"]) == (1, 312028)


def test_a_step_that_has_not_begun_is_not_named() -> None:
    assert event(Report("sent", 0), "docs")["data"]["output"]["progress"] == {"percent": 0}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_osd_groups_have_no_key_in_common(generation: int) -> None:
    of = pair(generation)
    groups = [set(group) for group in (osd.surroundings(of), osd.connections(of), osd.supply(of))]
    assert not any(a & b for a, b in itertools.combinations(groups, 2))
    assert {"mode_code", "drone_in_dock", "emergency_stop_state", "sub_device"} <= groups[0]
    assert {"flighttask_step_code", "wireless_link"} <= groups[1]


@pytest.mark.parametrize(("generation", "has_putter"), [(0, True), (1, True), (2, False)])
def test_only_the_first_two_generations_have_a_putter(generation: int, has_putter: bool) -> None:
    assert ("putter_state" in osd.surroundings(pair(generation))) == has_putter


def test_an_upgrading_pair_shows_it_in_both_mode_codes() -> None:
    of = pair()
    of.begin(of.sns)
    assert osd.surroundings(of)["mode_code"] == 3
    assert osd.flight(of)["mode_code"] == 13


def test_a_sleeping_aircraft_pushes_no_osd() -> None:
    of = pair()
    rounds = osd.Osd(of)
    assert [topic.split("/")[2] for topic, _ in rounds.round()] == [of.dock.sn] * 3 + [
        of.aircraft.sn
    ]
    of.is_aircraft_on = False
    assert [topic.split("/")[2] for topic, _ in rounds.round()] == [of.dock.sn] * 3


@pytest.mark.parametrize(
    ("fault", "group", "key", "value"),
    [
        ("busy", osd.surroundings, "mode_code", 4),
        ("busy", osd.connections, "flighttask_step_code", 1),
        ("aircraft-out", osd.surroundings, "drone_in_dock", 0),
        ("emergency-stop", osd.surroundings, "emergency_stop_state", 1),
    ],
)
def test_a_fault_shows_in_its_group(fault: str, group: Any, key: str, value: int) -> None:
    assert group(pair(fault=fault))[key] == value
    assert group(pair())[key] != value


def test_a_device_reports_its_three_firmware_properties() -> None:
    assert pair(fault="consistency").aircraft.firmware == {
        "firmware_version": "14.03.0915",
        "compatible_status": 1,
        "firmware_upgrade_status": 0,
    }
