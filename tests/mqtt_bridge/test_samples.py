"""Each sample of the Cloud API, published through a real broker, has the effect that it should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.models import Device
from mqtt_bridge.bridge import Bridge
from mqtt_bridge.models import FailedMessage
from ota.models import ForeignUpgrade, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from tests.docks import Wire
from tests.make import make_aircraft, make_device, make_dock, make_organization, make_task
from tests.processes import eventually

pytestmark = pytest.mark.services

FOLDER = Path(__file__).parents[1] / "samples"
DOCK, AIRCRAFT = "7CTDK2B0020002", "1581F6QTEST0000002"
DOCK1, AIRCRAFT1 = "4TADK1A0010001", "1581F5BTEST0000001"
DOCK3 = "8UUXK3C0030003"
BID = "240c6c69-e3f3-5786-9307-49913cf85dd0"


def sample(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


@pytest.fixture
def publish(bridge: Bridge, wire: Wire) -> Callable[[str], None]:
    """Publishes a sample and waits until the bridge has brought it in."""

    def publish_and_wait(name: str) -> None:
        found = sample(name)
        wire.say(found["topic"], found["payload"])
        # Messages keep their order on one topic; a second one on it that is answered is the proof.
        probe = {"tid": f"after-{name}", "bid": "b", "method": "hms", "need_reply": 1, "data": {}}
        wire.ask("thing/product/PROBE1/events", probe)
        assert not FailedMessage.objects.exists()

    return publish_and_wait


def device(sn: str) -> Device:
    return Device.objects.select_related("model", "gateway").get(sn=sn)


OSD: dict[str, tuple[str, dict[str, Any]]] = {
    "osd.dock1": (DOCK1, {"mode_code": 0, "drone_in_dock": 1, "battery_percent": 93, "sub_device_sn": AIRCRAFT1}),
    "osd.dock1.link": (DOCK1, {"flighttask_step_code": 5, "link_workmode": 0}),
    "osd.dock1.power": (DOCK1, {"maintenance_percent": 93}),
    "osd.dock2": (DOCK, {"mode_code": 0, "emergency_stop_state": 0, "sub_device_paired": 1}),
    "osd.dock2.busy": (DOCK, {"mode_code": 4, "drone_in_dock": 0}),
    "osd.dock2.emergency_stop": (DOCK, {"emergency_stop_state": 1}),
    "osd.dock2.power": (DOCK, {"maintenance_percent": 93}),
    "osd.dock2.upgrading": (DOCK, {"mode_code": 3, "sub_device_online": 1}),
    "osd.dock3": (DOCK3, {"mode_code": 5}),
    "osd.aircraft.m30t": (AIRCRAFT1, {"mode_code": 0, "battery_percent": 93, "firmware_version": "07.01.0026"}),
    "osd.aircraft.m3td": (AIRCRAFT, {"mode_code": 0, "battery_percent": 93, "firmware_version": ""}),
    "state.dock1.firmware": (DOCK1, {"firmware_version": "10.01.0205", "compatible_status": 0}),
    "state.dock2.firmware": (DOCK, {"firmware_version": "10.01.3205", "compatible_status": 0}),
    "state.dock2.firmware.consistency_needed": (DOCK, {"firmware_version": "10.01.3205", "compatible_status": 1}),
    "state.dock2.firmware_upgrade_status.only": (DOCK, {"firmware_upgrade_status": 1, "firmware_version": ""}),
    "state.aircraft.m30t.firmware": (AIRCRAFT1, {"firmware_version": "10.01.0014", "compatible_status": 1}),
    "state.aircraft.m3td.firmware": (AIRCRAFT, {"firmware_version": "10.01.3205"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OSD)
def test_a_property_message_is_kept(name: str, publish: Callable[[str], None]) -> None:
    publish(name)
    sn, expected = OSD[name]
    eventually(lambda: Device.objects.filter(sn=sn).exists(), "the device")
    eventually(lambda: found(sn, expected) == expected, f"{expected} of {sn}")


def found(sn: str, expected: dict[str, Any]) -> dict[str, Any]:
    stored = device(sn)
    return {name: getattr(stored, name) for name in expected}


def test_an_empty_version_keeps_the_last_one(publish: Callable[[str], None]) -> None:
    publish("state.aircraft.m3td.firmware")
    publish("state.aircraft.firmware_empty")
    assert device(AIRCRAFT).firmware_version == "10.01.3205"


@pytest.mark.parametrize(
    ("name", "sn", "child"),
    [
        ("status.update_topo.online", DOCK1, AIRCRAFT1),
        ("status.update_topo.online.dock2", DOCK, AIRCRAFT),
    ],
)
def test_a_topology_brings_dock_and_aircraft_online(
    name: str, sn: str, child: str, bridge: Bridge, wire: Wire
) -> None:
    found = sample(name)
    reply = wire.ask(found["topic"], found["payload"])
    assert (reply["method"], reply["data"]) == ("update_topo", {"result": 0})
    assert device(child).gateway == device(sn)
    assert device(sn).is_online
    assert device(child).is_online


def test_an_empty_topology_means_that_the_aircraft_is_off(bridge: Bridge, wire: Wire) -> None:
    make_aircraft(make_device("3-1-0", sn=DOCK1), sn=AIRCRAFT1)
    found = sample("status.update_topo.offline")
    reply = wire.ask(found["topic"], found["payload"])
    expected = sample("status_reply.update_topo")["payload"]
    assert reply.keys() == expected.keys()
    assert device(AIRCRAFT1).presence == Device.Presence.OFF


REQUESTS = {
    "config": "requests_reply.config",
    "airport_bind_status": "requests_reply.airport_bind_status.unbound",
    "airport_organization_get": "requests_reply.airport_organization_get",
    "airport_organization_bind": "requests_reply.airport_organization_bind.ok",
    "storage_config_get": "requests_reply.storage_config_get.unavailable",
    "flight_areas_get": "requests_reply.flight_areas_get",
    "offline_map_get": "requests_reply.offline_map_get",
}


@pytest.mark.parametrize("method", REQUESTS)
def test_a_request_is_answered_in_the_shape_of_its_sample(
    method: str, bridge: Bridge, wire: Wire
) -> None:
    make_organization(identifier="org-77", name="Example Org", binding_code="QWERTY")
    found = sample(f"requests.{method}")
    reply = wire.ask(found["topic"], found["payload"])
    expected = sample(REQUESTS[method])["payload"]
    assert shape(reply) == shape(expected)
    assert (reply["tid"], reply["bid"], reply["method"]) == (
        expected["tid"], expected["bid"], expected["method"],
    )  # fmt: skip
    if method not in {"config", "storage_config_get", "airport_organization_bind"}:
        assert reply["data"] == expected["data"]


def shape(value: Any) -> Any:
    """The keys and types of a message, without its values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value)


def test_a_bound_dock_gets_the_sample_s_answer(bridge: Bridge, wire: Wire) -> None:
    organization = make_organization(identifier="org-77", name="Example Org")
    dock = make_dock(sn=DOCK, organization=organization, callsign="North dock")
    make_aircraft(dock, sn=AIRCRAFT, callsign="North drone")
    found = sample("requests.airport_bind_status")
    reply = wire.ask(found["topic"], found["payload"])
    assert reply["data"] == sample("requests_reply.airport_bind_status.bound")["payload"]["data"]


def test_an_unknown_binding_code_gets_the_sample_s_error(bridge: Bridge, wire: Wire) -> None:
    found = sample("requests.airport_organization_get")
    reply = wire.ask(found["topic"], found["payload"])
    expected = sample("requests_reply.airport_organization_get.error")["payload"]["data"]
    assert reply["data"]["result"] == expected["result"]
    assert isinstance(reply["data"]["output"], str)


def test_a_health_message_is_none_of_our_business(publish: Callable[[str], None]) -> None:
    publish("events.hms")
    assert not Device.objects.filter(sn=DOCK).exists()
    assert not ForeignUpgrade.objects.exists()


def make_sent_task(sn: str, bid: str, **fields: Any) -> UpgradeTask:
    model = {DOCK: "3-2-0", DOCK1: "3-1-0", DOCK3: "3-3-0"}[sn]
    return make_task(make_device(model, sn=sn), status=TaskStatus.SENT, bid=bid, **fields)


LAST = 100  # tries: the next failure is the end
PROGRESS = {
    "sent": (TaskStatus.IN_PROGRESS, 0, "", None),
    "download": (TaskStatus.IN_PROGRESS, 10, "download_firmware", None),
    "upgrade": (TaskStatus.IN_PROGRESS, 45, "upgrade_firmware", None),
    "sdk_style.download": (TaskStatus.IN_PROGRESS, 27, "download_firmware", 1843200),
    "sdk_style.upgrade": (TaskStatus.IN_PROGRESS, 62, "upgrade_firmware", None),
    "v115.download": (TaskStatus.IN_PROGRESS, 10, "download_firmware", None),
    "ok": (TaskStatus.VERIFYING, 100, "upgrade_firmware", None),
    # It restarted in the middle: what it reports then decides.
    "failed": (TaskStatus.VERIFYING, 31, "upgrade_firmware", None),
    "failed.low_battery": (TaskStatus.FAILED, 0, "download_firmware", None),
    "timeout": (TaskStatus.TIMEOUT, 60, "upgrade_firmware", None),
}


@pytest.mark.parametrize("name", PROGRESS)
def test_progress_in_each_dialect_moves_its_task(name: str, bridge: Bridge, wire: Wire) -> None:
    found = sample(f"events.ota_progress.{name}")
    task = make_sent_task(found["topic"].split("/")[2], found["payload"]["bid"], retries=LAST)
    wire.say(found["topic"], found["payload"])
    line = TaskEvent.objects.filter(task=task, kind="progress")
    eventually(line.exists, "the line of history")
    task.refresh_from_db()
    assert (task.status, task.percent, task.step, task.rate) == PROGRESS[name]
    assert task.result == found["payload"]["data"]["result"]


def test_progress_that_asks_for_it_gets_the_sample_s_answer(bridge: Bridge, wire: Wire) -> None:
    make_sent_task(DOCK, BID)
    found = sample("events.ota_progress.ok")
    reply = wire.ask(found["topic"], found["payload"])
    expected = sample("events_reply.ota_progress")["payload"]
    assert {**reply, "timestamp": 0} == {**expected, "timestamp": 0}


@pytest.mark.parametrize(
    ("name", "status", "result"),
    [
        ("ok", TaskStatus.IN_PROGRESS, None),
        ("sent", TaskStatus.SENT, None),
        ("error", TaskStatus.REJECTED, 312015),
    ],
)
def test_a_reply_to_the_command_is_kept(
    name: str, status: str, result: int | None, bridge: Bridge, wire: Wire
) -> None:
    found = sample(f"services_reply.ota_create.{name}")
    task = make_sent_task(DOCK, found["payload"]["bid"], replied_at=None, retries=LAST)
    wire.say(found["topic"], found["payload"] | {"tid": task.tid})
    eventually(TaskEvent.objects.filter(task=task, kind="reply").exists, "the line of history")
    task.refresh_from_db()
    assert (task.status, task.result) == (status, result)
    assert (task.replied_at is None) == (name == "error")


@pytest.mark.parametrize("method", ["debug_mode_open", "drone_open", "sdr_workmode_switch"])
def test_a_reply_to_a_command_that_is_not_ours_changes_nothing(
    method: str, publish: Callable[[str], None]
) -> None:
    publish(f"services_reply.{method}.ok")
    assert not Device.objects.filter(sn=DOCK).exists()
    assert not TaskEvent.objects.exists()


DOWN = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem.startswith("services."))
DOWN += sorted(path.stem for path in FOLDER.glob("*_reply.*.json") if "services" not in path.stem)


@pytest.mark.parametrize("name", DOWN)
def test_what_servers_say_to_docks_is_none_of_the_bridges_business(
    name: str, publish: Callable[[str], None]
) -> None:
    publish(name)
    assert not Device.objects.exists()
    assert not TaskEvent.objects.exists()
