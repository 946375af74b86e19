"""Docks against a real broker: onboarding, upgrades, and what each fault shows."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from simulator import onboarding
from tests.simulator.conftest import Scene
from tests.simulator.server import Said, both, package

pytestmark = pytest.mark.services

VERSION = "10.01.9999"


def method(name: str) -> Callable[[Said], bool]:
    return lambda said: said.method == name


def status(name: str) -> Callable[[Said], bool]:
    return lambda said: said.method == "ota_progress" and said.data["output"]["status"] == name


def state(sn: str, key: str, value: object) -> Callable[[Said], bool]:
    return lambda said: said.kind == "state" and said.sn == sn and said.data.get(key) == value


def osd(sn: str, key: str, value: object) -> Callable[[Said], bool]:
    return lambda said: said.kind == "osd" and said.sn == sn and said.data.get(key) == value


def progress(scene: Scene) -> list[Said]:
    return scene.cloud.all(method("ota_progress"))


async def test_an_unbound_dock_goes_through_the_whole_onboarding(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(osd(spec.aircraft_sn, "mode_code", 0))
    steps = [said.method for said in scene.cloud.said if said.kind in {"requests", "status"}]
    assert steps[:5] == [
        "config", "airport_bind_status", "airport_organization_get", "airport_organization_bind", "update_topo",
    ]  # fmt: skip
    assert scene.cloud.bound == {spec.sn, spec.aircraft_sn}


async def test_a_bound_dock_does_not_bind_again(scene: Scene) -> None:
    scene.cloud.bound = {"7CTDK2SIM0002"}
    scene.start()
    await scene.cloud.until(method("update_topo"))
    assert not scene.cloud.all(method("airport_organization_bind"))


async def test_a_dock_asks_for_maps_once_after_its_start(scene: Scene) -> None:
    scene.start()
    await scene.cloud.until(method("offline_map_get"))
    assert len(scene.cloud.all(method("flight_areas_get"))) == 1


async def test_a_dock_reports_even_when_nobody_answers(scene: Scene) -> None:
    scene.cloud.is_mute = True
    spec = scene.start(reply_timeout=0.05)
    await scene.cloud.until(osd(spec.sn, "mode_code", 0))
    assert scene.cloud.all(state(spec.sn, "firmware_version", spec.version))


@pytest.mark.parametrize("change", [{"bid": "another"}, {"method": "config"}])
async def test_a_reply_to_something_else_is_none(scene: Scene, change: dict[str, str]) -> None:
    scene.cloud.spoiled["update_topo"] = change
    scene.start(reply_timeout=0.5)
    await scene.cloud.until(method("update_topo"), count=2)


async def test_a_reply_may_lack_its_method(scene: Scene) -> None:
    scene.cloud.spoiled["update_topo"] = {"method": None}
    scene.start(reply_timeout=0.5)
    await scene.cloud.until(method("offline_map_get"))
    assert len(scene.cloud.all(method("update_topo"))) == 1


@pytest.mark.parametrize("data", [{"result": 1}, {}, None])
async def test_a_topology_that_is_refused_is_told_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, data: object
) -> None:
    monkeypatch.setattr(onboarding, "TOPOLOGY_PAUSE", 0.1)
    scene.cloud.spoiled["update_topo"] = {"data": data}
    spec = scene.start()
    await scene.cloud.until(method("update_topo"), count=2)
    assert f"{spec.sn}: the server refuses update_topo" in caplog.text


LICENCE = {"app_id": "1", "app_key": "k", "app_license": "l"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        LICENCE | {"app_license": ""},
        LICENCE | {"app_id": 1},
        {"result": 0, "output": LICENCE},
        {"result": 1},
        LICENCE | {"ntp_server_port": "123"},
    ],
)
async def test_a_dock_without_a_licence_leaves_the_broker_and_does_not_bind(
    scene: Scene, caplog: pytest.LogCaptureFixture, answer: dict[str, Any]
) -> None:
    scene.cloud.spoiled["config"] = {"data": answer}
    spec = scene.start()
    await scene.cloud.until(method("config"), count=2)
    assert {said.method for said in scene.cloud.said} == {"config"}
    assert f"{spec.sn}: leaves the broker, for the server gives it no licence" in caplog.text


async def test_a_dock_that_left_without_a_licence_comes_back_for_one(scene: Scene) -> None:
    scene.cloud.spoiled["config"] = {"data": {}}
    spec = scene.start()
    await scene.cloud.until(method("config"))
    scene.cloud.spoiled.clear()
    await scene.cloud.until(osd(spec.sn, "mode_code", 0))
    assert scene.cloud.bound == {spec.sn, spec.aircraft_sn}
    assert len(scene.cloud.all(method("config"))) > 1


async def test_the_osd_of_a_dock_comes_in_groups_without_common_keys(scene: Scene) -> None:
    spec = scene.start()
    wanted = lambda said: said.kind == "osd" and said.sn == spec.sn  # noqa: E731
    await scene.cloud.until(wanted, count=3)
    groups = [set(said.data) for said in scene.cloud.all(wanted)[:3]]
    assert all(not a & b for a, b in itertools.combinations(groups, 2))


@pytest.mark.parametrize("generation", [1, 2, 3])
async def test_an_upgrade_ends_with_ok_and_the_new_version(scene: Scene, generation: int) -> None:
    spec = scene.start(generation=generation)
    await scene.cloud.until(method("offline_map_get"))
    reply = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    assert reply.data == {"result": 0, "output": {"status": "in_progress"}}
    for sn in (spec.sn, spec.aircraft_sn):
        done = await scene.cloud.until(state(sn, "firmware_version", VERSION))
        assert (done.data["compatible_status"], done.data["firmware_upgrade_status"]) == (0, 0)
    events = progress(scene)
    assert {said.payload["bid"] for said in events} == {"b-1"}
    assert len({said.payload["tid"] for said in events}) == len(events)
    assert events[-1].data["output"]["status"] == "ok"
    assert events[-1].data["output"]["progress"]["percent"] == 100


async def test_a_dock_onboards_again_after_its_reboot(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(method("offline_map_get"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))
    last_event = scene.cloud.said.index(progress(scene)[-1])
    after = [said.method for said in scene.cloud.said[last_event + 1 :] if said.method]
    assert after == ["config", "airport_bind_status", "update_topo"]


async def test_a_dock_shows_that_it_is_upgrading(scene: Scene) -> None:
    spec = scene.start(upgrade=1000.0)
    await scene.cloud.until(method("offline_map_get"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(osd(spec.sn, "mode_code", 3))
    await scene.cloud.until(osd(spec.aircraft_sn, "mode_code", 13))
    assert scene.cloud.all(state(spec.aircraft_sn, "firmware_upgrade_status", 1))


async def test_a_second_command_is_refused_while_upgrading(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    second = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid="b-2")
    assert second.data["result"] == 312014


@pytest.mark.parametrize("ids", [{"tid": "t-1"}, {"bid": "b-1"}, {}])
async def test_a_command_without_both_ids_is_refused(scene: Scene, ids: dict[str, str]) -> None:
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.send(spec.sn, "ota_create", both(scene.files, spec), **ids)
    reply = await scene.cloud.until(lambda said: said.kind == "services_reply")
    assert reply.data == {"result": 312010, "output": {"status": "rejected"}}
    assert not progress(scene)


async def test_a_cut_download_is_resumed_where_it_stopped(scene: Scene) -> None:
    scene.files.cuts = 2
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    order = {"devices": [scene.files.target(spec.sn, VERSION)]}
    await scene.cloud.command(spec.sn, "ota_create", order)
    await scene.cloud.until(status("ok"))
    assert any("bytes=20000-" in head for head in scene.files.requests)


async def test_a_wrong_md5_fails_the_upgrade(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    order = {"devices": [scene.files.target(spec.sn, VERSION, md5="0" * 32)]}
    await scene.cloud.command(spec.sn, "ota_create", order)
    assert (await scene.cloud.until(status("failed"))).data["result"] == 312003


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (package("M3D", VERSION), 312003),
        (package("DOCK2", "10.01.9998"), 312017),
        (b"no zip" * 1000, 312026),
    ],
    ids=["another product", "another version", "no zip"],
)
async def test_a_package_that_is_not_for_its_target_fails_the_upgrade(
    scene: Scene, content: bytes, code: int
) -> None:
    spec = scene.start()
    await scene.cloud.until(method("offline_map_get"))
    unfit = scene.files.holding(content, spec.sn, VERSION)
    fit = scene.files.target(spec.aircraft_sn, VERSION)
    await scene.cloud.command(spec.sn, "ota_create", {"devices": [fit, unfit]})
    failed = await scene.cloud.until(status("failed"))
    assert failed.data["result"] == code
    progress = {"percent": 100, "step_key": "download_firmware"}
    assert failed.data["output"]["progress"] == progress


async def test_an_expired_link_fails_the_upgrade(scene: Scene) -> None:
    scene.files.status = 403
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    assert (await scene.cloud.until(status("failed"))).data["result"] == 312002


async def test_an_unanswered_terminal_event_is_sent_once_more(scene: Scene) -> None:
    spec = scene.start("fail-upgrade", reply_timeout=0.3)
    await scene.cloud.until(method("offline_map_get"))
    scene.cloud.is_mute = True
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    again = await scene.cloud.until(status("failed"), count=2)
    assert again.payload == scene.cloud.all(status("failed"))[0].payload


@pytest.mark.parametrize("change", [{"bid": "another"}, {"data": {"result": 1}}])
async def test_a_terminal_event_that_is_not_acknowledged_is_sent_once_more(
    scene: Scene, change: dict[str, Any]
) -> None:
    spec = scene.start("fail-upgrade", reply_timeout=0.5)
    await scene.cloud.until(method("offline_map_get"))
    scene.cloud.spoiled["ota_progress"] = change
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(status("failed"), count=2)


async def test_a_restarted_simulator_keeps_the_versions(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))
    scene.cloud.said.clear()
    scene.start()
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))
    assert not scene.cloud.all(state(spec.sn, "firmware_version", spec.version))


@pytest.mark.parametrize(
    ("fault", "key", "value"),
    [("busy", "mode_code", 4), ("busy", "flighttask_step_code", 1), ("aircraft-out", "drone_in_dock", 0),
     ("emergency-stop", "emergency_stop_state", 1),
     ("low-battery", "drone_charge_state", {"state": 0, "capacity_percent": 12})],
)  # fmt: skip
async def test_a_passing_fault_shows_in_the_osd_and_clears(
    scene: Scene, fault: str, key: str, value: object
) -> None:
    spec = scene.start(fault, clear_after=0.1)
    shown = await scene.cloud.until(lambda said: said.sn == spec.sn and key in _data(said))
    assert shown.data[key] == value
    await scene.cloud.until(
        lambda said: said.sn == spec.sn and _data(said).get(key, value) != value
    )


def _data(said: Said) -> dict[str, Any]:
    return said.data if said.kind == "osd" else {}


async def test_passing_faults_of_all_docks_end_when_somebody_says_so(scene: Scene) -> None:
    spec = scene.start("busy", clear_after=0)
    await scene.cloud.until(osd(spec.sn, "mode_code", 4))
    scene.moments.clear()
    await scene.cloud.until(osd(spec.sn, "mode_code", 0))


async def test_a_mass_failure_begins_and_ends(scene: Scene) -> None:
    spec = scene.start()
    await scene.cloud.until(method("offline_map_get"))
    scene.moments.turn()
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    failed = await scene.cloud.until(status("failed"))
    assert failed.data["result"] == 312016
    scene.moments.turn()
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid="b-2")
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))


async def test_a_4g_dock_refuses_until_its_link_is_switched(scene: Scene) -> None:
    spec = scene.start("4g", clear_after=0)
    await scene.cloud.until(method("update_topo"))
    refused = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    assert refused.data == {"result": 312030, "output": {"status": "rejected"}}
    switched = await scene.cloud.command(
        spec.sn, "sdr_workmode_switch", {"link_workmode": 0}, bid="s"
    )
    assert switched.data == {"result": 0}
    accepted = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid="b-2")
    assert accepted.data["result"] == 0


async def test_an_offline_dock_comes_back(scene: Scene) -> None:
    spec = scene.start("offline", clear_after=0.1)
    await scene.cloud.until(state(spec.sn, "firmware_version", spec.version))
    assert not scene.cloud.all(lambda said: said.kind == "osd")
    await scene.cloud.until(osd(spec.sn, "mode_code", 0))


async def test_a_sleeping_aircraft_is_woken_by_the_upgrade(scene: Scene) -> None:
    spec = scene.start("aircraft-off")
    asleep = lambda said: said.method == "update_topo" and not said.data["sub_devices"]  # noqa: E731
    await scene.cloud.until(asleep)
    assert scene.cloud.all(state(spec.aircraft_sn, "firmware_version", spec.aircraft_version))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(state(spec.aircraft_sn, "firmware_version", VERSION))
    await scene.cloud.until(asleep, count=2)


async def test_a_consistency_upgrade_settles_the_aircraft(scene: Scene) -> None:
    spec = scene.start("consistency")
    await scene.cloud.until(state(spec.aircraft_sn, "compatible_status", 1))
    target = scene.files.target(spec.aircraft_sn, spec.aircraft_version, firmware_upgrade_type=2)
    await scene.cloud.command(spec.sn, "ota_create", {"devices": [target]})
    done = await scene.cloud.until(state(spec.aircraft_sn, "compatible_status", 0))
    assert done.data["firmware_version"] == spec.aircraft_version


async def test_a_rejecting_dock_takes_the_second_command(scene: Scene) -> None:
    spec = scene.start("rejected")
    await scene.cloud.until(method("update_topo"))
    first = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    second = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid="b-2")
    assert (first.data["result"], second.data["result"]) == (312015, 0)


async def test_a_dock_that_always_rejects_also_rejects_the_second_command(scene: Scene) -> None:
    spec = scene.start("rejected-always")
    await scene.cloud.until(method("update_topo"))
    for bid in ("b-1", "b-2"):
        reply = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid=bid)
        assert reply.data["result"] == 312015


async def test_a_lost_reply_is_followed_by_progress_with_the_first_bid(scene: Scene) -> None:
    spec = scene.start("lost-reply", speed=50.0)
    await scene.cloud.until(method("offline_map_get"))
    await scene.cloud.send(spec.sn, "ota_create", both(scene.files, spec), tid="t-1", bid="b-1")
    second = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid="b-2")
    assert second.data["result"] == 312014
    assert not progress(scene)
    first = await scene.cloud.until(method("ota_progress"))
    assert first.payload["bid"] == "b-1"
    assert len(scene.cloud.all(lambda said: said.kind == "services_reply")) == 1


@pytest.mark.parametrize(
    ("fault", "percent", "code"), [("fail-download", 100, 312003), ("fail-upgrade", 31, 312028)]
)
async def test_a_failing_dock_says_where_and_why(
    scene: Scene, fault: str, percent: int, code: int
) -> None:
    spec = scene.start(fault)
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    failed = await scene.cloud.until(status("failed"))
    step = fault.removeprefix("fail-") + "_firmware"
    assert failed.data["result"] == code
    assert failed.data["output"]["progress"] == {"percent": percent, "step_key": step}
    await scene.cloud.until(state(spec.sn, "firmware_upgrade_status", 0), count=2)


@pytest.mark.parametrize(("fault", "is_new"), [("fail-upgrade", False), ("failed-proven", True)])
async def test_a_dock_that_says_it_restarted_goes_off_and_reports_anew(
    scene: Scene, fault: str, is_new: bool
) -> None:
    spec = scene.start(fault)
    await scene.cloud.until(method("offline_map_get"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    failed = await scene.cloud.until(status("failed"))
    assert failed.data["result"] == 312028
    versions = {spec.sn: spec.version, spec.aircraft_sn: spec.aircraft_version}
    scene.cloud.said = scene.cloud.said[scene.cloud.said.index(failed) :]
    for sn, old in versions.items():
        back = await scene.cloud.until(state(sn, "firmware_version", VERSION if is_new else old))
        assert back.data["firmware_upgrade_status"] == 0
    assert [said.method for said in scene.cloud.said if said.kind in {"requests", "status"}] == [
        "config", "airport_bind_status", "update_topo",
    ]  # fmt: skip


async def test_a_dock_that_restarted_with_its_old_version_takes_the_next_command(
    scene: Scene,
) -> None:
    spec = scene.start("fail-upgrade")
    await scene.cloud.until(method("offline_map_get"))
    for bid in ("b-1", "b-2"):
        reply = await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec), bid=bid)
        assert reply.data["result"] == 0
        await scene.cloud.until(
            state(spec.sn, "firmware_version", spec.version), count=1 + int(bid[-1])
        )


async def test_an_unproven_dock_comes_back_with_its_old_version(scene: Scene) -> None:
    spec = scene.start("ok-unproven")
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(status("ok"))
    await scene.cloud.until(state(spec.sn, "firmware_version", spec.version), count=2)


async def test_only_the_state_tells_of_an_upgrade_whose_terminal_event_is_lost(
    scene: Scene,
) -> None:
    spec = scene.start("terminal-lost")
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))
    assert {said.data["output"]["status"] for said in progress(scene)} == {"sent", "in_progress"}


async def test_a_silent_dock_disappears_after_a_few_events(scene: Scene) -> None:
    spec = scene.start("silent")
    await scene.cloud.until(method("offline_map_get"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(method("ota_progress"), count=4)
    seen = len(scene.cloud.said)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await scene.cloud.until(lambda _: len(scene.cloud.said) > seen + 4)


async def test_a_duplicating_dock_says_all_twice_and_in_the_wrong_order(scene: Scene) -> None:
    spec = scene.start("duplicate")
    await scene.cloud.until(method("update_topo"))
    await scene.cloud.command(spec.sn, "ota_create", both(scene.files, spec))
    await scene.cloud.until(state(spec.sn, "firmware_version", VERSION))
    tids = [said.payload["tid"] for said in progress(scene)]
    times = [said.payload["timestamp"] for said in progress(scene)]
    assert tids[0::2] == tids[1::2]
    assert times != sorted(times)


async def test_a_foreign_upgrade_has_a_bid_that_nobody_gave(scene: Scene) -> None:
    spec = scene.start("foreign")
    await scene.cloud.until(status("ok"))
    assert len({said.payload["bid"] for said in progress(scene)}) == 1
    await scene.cloud.until(state(spec.sn, "firmware_version", "14.03.0915"))


async def test_a_slow_dock_takes_its_time(scene: Scene) -> None:
    spec = scene.start("slow-download")
    await scene.cloud.until(method("update_topo"))
    started = asyncio.get_running_loop().time()
    target = scene.files.target(spec.sn, VERSION)
    await scene.cloud.command(spec.sn, "ota_create", {"devices": [target]})
    await scene.cloud.until(status("ok"))
    assert asyncio.get_running_loop().time() - started > len(package("DOCK2", VERSION)) / 60_000
