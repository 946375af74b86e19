"""Whatever arrives over the broker, the bridge goes on, delays nobody, and changes nothing it may not."""

import json
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge.bridge import Bridge
from mqtt_bridge.envelope import Envelope, decode
from mqtt_bridge.models import FailedMessage
from ota.models import TaskEvent, UpgradeTask
from ota.states import TaskStatus
from tests.docks import Wire
from tests.make import NEW, OLD, envelope, make_aircraft, make_dock, make_task, progress
from tests.processes import eventually

pytestmark = pytest.mark.services

EVENTS = "thing/product/DOCK1/events"


def bridge_answers(wire: Wire) -> None:
    """Everything before has been brought in, and the bridge lives."""
    request = envelope(None, "offline_map_get")
    assert wire.ask("thing/product/PROBE1/requests", request)["data"] == {"result": 0}


def nested(depth: int) -> bytes:
    return b'{"tid":"t","method":"ota_progress","data":' + b"[" * depth + b"]" * depth + b"}"


UNREADABLE = {
    "nothing": b"",
    "not JSON": b"<xml/>",
    "not UTF-8": b'{"tid": "\xff\xfe"}',
    "a number": b"42",
    "a text": b'"ota_progress"',
    "null": b"null",
    "a list": b"[1, 2, 3]",
    "cut off": b'{"tid": "1", "data": {',
    "nested 10,000 deep": nested(10_000),
    "data is a list": b'{"tid":"t","method":"ota_progress","data":[1]}',
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_nobody_can_read_is_kept_and_passed_by(name: str, bridge: Bridge, wire: Wire) -> None:
    wire.say(EVENTS, UNREADABLE[name])
    bridge_answers(wire)
    failed = FailedMessage.objects.get()
    assert failed.topic == EVENTS
    assert failed.reason


def test_five_megabytes_are_taken_and_kept_in_short(bridge: Bridge, wire: Wire) -> None:
    wire.say("thing/product/DOCK1/state", envelope({"firmware_version": "x" * 5_000_000}))
    wire.say(EVENTS, b'"' + b"x" * 5_000_000)
    bridge_answers(wire)
    assert Device.objects.get(sn="DOCK1").firmware_version == ""
    assert len(FailedMessage.objects.get().payload) <= 4000


SERIAL_NUMBERS = {
    "a blank": "DO CK",
    "a dot": "DOCK.1",
    "ten thousand characters": "A" * 10_000,
    "letters of another alphabet": "\u0414\u041e\u041a1",
    "a percent sign": "%27OR1",
}


@pytest.mark.parametrize("name", SERIAL_NUMBERS)
def test_an_impossible_serial_number_makes_no_device(name: str, bridge: Bridge, wire: Wire) -> None:
    wire.say(f"thing/product/{SERIAL_NUMBERS[name]}/state", envelope({"firmware_version": NEW}))
    bridge_answers(wire)
    assert not Device.objects.exists()
    assert FailedMessage.objects.count() == 1


@pytest.mark.parametrize("topic", ["thing/product/A/B/state", "thing/product//state"])
def test_a_serial_number_with_a_slash_is_another_topic(
    topic: str, bridge: Bridge, wire: Wire
) -> None:
    wire.say(topic, envelope({"firmware_version": NEW}))
    bridge_answers(wire)
    assert not Device.objects.exists()


@pytest.mark.parametrize("sn", ["A/B", "A#", "A+", "\x00", "A" * 10_000, "", None, 5, [], {}])
def test_a_dock_cannot_name_an_impossible_child(sn: Any, bridge: Bridge, wire: Wire) -> None:
    child = {"sn": sn, "domain": "0", "type": 91, "sub_type": 1}
    topology = envelope({"domain": "3", "type": 2, "sub_devices": [child]}, "update_topo")
    assert wire.ask("sys/product/DOCK1/status", topology)["data"] == {"result": 0}
    assert [device.sn for device in Device.objects.all()] == ["DOCK1"]


def test_a_text_with_a_nul_character_is_dropped_and_the_rest_counts() -> None:
    payload = json.dumps({"tid": "a\x00b", "bid": "b", "data": {"text": "\x00"}}).encode()
    found, dropped = decode(payload, Envelope)
    assert (found.tid, found.bid, dropped) == ("", "b", ["tid"])
    assert json.loads(bytes(found.data)) == {"text": "\x00"}


WRONG: list[Any] = [None, True, "text", "", 1.5, -1, 2**70, [], {}, [[]], "\x00", {"a": {"b": []}}]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_type_in_any_field_of_the_envelope(value: Any, bridge: Bridge, wire: Wire) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    topic = f"thing/product/{task.gateway.sn}/events"
    for field in ("tid", "bid", "timestamp", "gateway", "need_reply", "data", "method"):
        wire.say(topic, envelope(progress(), "ota_progress", bid=task.bid) | {field: value})
    bridge_answers(wire)
    task.refresh_from_db()
    assert task.status == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_type_in_any_field_of_progress(value: Any, bridge: Bridge, wire: Wire) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=20)
    topic = f"thing/product/{task.gateway.sn}/events"
    whole = {"percent": 50, "step_key": "upgrade_firmware", "current_step": 2}
    for data in (
        {"result": value, "output": {"status": "in_progress", "progress": whole}},
        {"result": 0, "output": value},
        {"result": 0, "output": {"status": value, "progress": whole}},
        {"result": 0, "output": {"status": "in_progress", "progress": value}},
        {"result": 0, "output": {"status": "in_progress", "ext": value}},
        {"result": 0, "output": {"status": "in_progress", "ext": {"rate": value}}},
        *(
            {"result": 0, "output": {"status": "in_progress", "progress": whole | {key: value}}}
            for key in whole
        ),
    ):
        wire.say(topic, envelope(data, "ota_progress", bid=task.bid))
    bridge_answers(wire)
    task.refresh_from_db()
    assert task.status == TaskStatus.IN_PROGRESS
    assert task.percent in {20, 50, 1}


PROPERTIES = [
    "firmware_version",
    "compatible_status",
    "firmware_upgrade_status",
    "mode_code",
    "flighttask_step_code",
    "drone_in_dock",
    "emergency_stop_state",
    "drone_charge_state",
    "battery",
    "sub_device",
    "wireless_link",
    "storage",
    "drone_battery_maintenance_info",
]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_type_in_any_property(value: Any, bridge: Bridge, wire: Wire) -> None:
    dock = make_dock()
    for name in PROPERTIES:
        wire.say(f"thing/product/{dock.sn}/osd", envelope({name: value}))
        wire.say(f"thing/product/{dock.sn}/state", envelope({name: value}))
    wire.say(f"thing/product/{dock.sn}/state", envelope({"compatible_status": 1}))
    bridge_answers(wire)
    eventually(lambda: Device.objects.get(sn=dock.sn).compatible_status == 1, "the good report")


@pytest.mark.parametrize(
    "method",
    ["config", "airport_bind_status", "airport_organization_get", "airport_organization_bind"],
)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_type_in_a_request(method: str, value: Any, bridge: Bridge, wire: Wire) -> None:
    topic = "thing/product/DOCK1/requests"
    for data in ({"devices": value}, {"bind_devices": [value]}, {"organization_id": value}):
        wire.say(topic, envelope(data, method))
    bridge_answers(wire)
    assert not Device.objects.exclude(organization=None).exists()


@pytest.mark.parametrize("timestamp", ["1764000000000", -1, 0, 253402300799000, 10**30, True])
def test_no_clock_of_a_device_holds_later_reports_back(
    timestamp: Any, bridge: Bridge, wire: Wire
) -> None:
    dock = make_dock()
    topic = f"thing/product/{dock.sn}/state"
    wire.say(topic, envelope({"firmware_version": OLD}, timestamp=timestamp))
    bridge_answers(wire)
    wire.say(topic, envelope({"firmware_version": NEW}))
    bridge_answers(wire)
    eventually(lambda: Device.objects.get(sn=dock.sn).firmware_version == NEW, "the later report")


def test_a_gateway_that_contradicts_the_topic_moves_nobody_elses_task(
    bridge: Bridge, wire: Wire
) -> None:
    task, liar = make_task(status=TaskStatus.IN_PROGRESS), make_dock()
    message = envelope(progress("failed", 5, result=312028), "ota_progress", bid=task.bid)
    wire.say(f"thing/product/{liar.sn}/events", message | {"gateway": task.gateway.sn})
    bridge_answers(wire)
    task.refresh_from_db()
    assert task.status == TaskStatus.IN_PROGRESS


def test_an_aircraft_cannot_speak_for_its_dock(bridge: Bridge, wire: Wire) -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, status=TaskStatus.IN_PROGRESS)
    message = envelope(progress("failed", 5, result=312028), "ota_progress", bid=task.bid)
    wire.say(f"thing/product/{aircraft.sn}/events", message | {"gateway": dock.sn})
    bridge_answers(wire)
    task.refresh_from_db()
    assert task.status == TaskStatus.IN_PROGRESS


def test_bad_messages_do_not_delay_the_good_ones_beside_them(bridge: Bridge, wire: Wire) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    topic = f"thing/product/{task.gateway.sn}/events"
    for percent in range(50):
        wire.say(EVENTS, nested(2_000))
        wire.say(topic, envelope(progress(percent=percent), "ota_progress", bid=task.bid))
    bridge_answers(wire)
    assert TaskEvent.objects.filter(task=task).count() == 50
    assert UpgradeTask.objects.get(pk=task.pk).percent == 49


def test_only_the_newest_thousand_failures_are_kept(transactional_db: None) -> None:
    now = timezone.now()
    failed = [FailedMessage.of("t", b"x", now, f"reason {n}") for n in range(1200)]
    for start in range(0, 1200, 300):
        FailedMessage.objects.keep(failed[start : start + 300])
    assert FailedMessage.objects.count() == 1000
    assert FailedMessage.objects.order_by("pk")[0].reason == "reason 200"


def test_secrets_in_a_failed_message_are_masked(bridge: Bridge, wire: Wire) -> None:
    request = envelope({"device_binding_code": "S3CRET77"}, "airport_organization_get")
    wire.say("thing/product/DOCK1/requests", json.dumps(request).encode()[:-1])
    bridge_answers(wire)
    assert "S3CRET77" not in FailedMessage.objects.get().payload
