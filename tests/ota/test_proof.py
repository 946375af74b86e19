"""Nothing is done until the device has proved it."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, router
from mqtt_bridge.models import BridgeSession
from ota.models import UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import proof
from tests.make import (
    NEW,
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_listening,
    make_package,
    make_target,
    make_task,
    received,
)
from tests.ota.doubt import ago, stamp

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


def report(device: Device, kind: str = "state", **properties: Any) -> None:
    pipeline.process([received(f"thing/product/{device.sn}/{kind}", envelope(properties))])


def status(task: UpgradeTask) -> str:
    task.refresh_from_db()
    return task.status


def make_consistency_task(**fields: Any) -> UpgradeTask:
    dock = make_dock(NEW, compatible_status=1)
    task = make_task(dock, status=TaskStatus.VERIFYING, **fields)
    UpgradeTarget.objects.filter(task=task).update(upgrade_type="consistency")
    return task


def test_the_wanted_version_after_the_command_is_the_proof() -> None:
    task = make_task(status=TaskStatus.VERIFYING)
    report(task.gateway, firmware_version=NEW)
    assert status(task) == TaskStatus.OK
    assert (task.targets.get().reported_version, task.percent) == (NEW, 100)


def test_the_proof_may_come_in_osd_too() -> None:
    task = make_task(status=TaskStatus.VERIFYING)
    report(task.gateway, "osd", firmware_version=NEW)
    assert status(task) == TaskStatus.OK


def test_the_version_as_pages_print_it_is_the_same_version() -> None:
    task = make_task(status=TaskStatus.VERIFYING)
    report(task.gateway, firmware_version="10.01.32.05")
    assert status(task) == TaskStatus.OK


def test_another_version_is_no_proof_and_is_kept() -> None:
    task = make_task(status=TaskStatus.VERIFYING)
    report(task.gateway, firmware_version=OLD)
    assert status(task) == TaskStatus.VERIFYING
    assert task.targets.get().reported_version == OLD


def test_both_devices_have_to_prove_it() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, aircraft=aircraft, status=TaskStatus.VERIFYING)
    report(dock, firmware_version=NEW)
    assert status(task) == TaskStatus.VERIFYING
    report(aircraft, firmware_version=NEW)
    assert status(task) == TaskStatus.OK


def test_a_version_that_a_device_has_lost_again_is_no_proof() -> None:
    dock = make_dock(mode_code=3)
    task = make_task(dock, status=TaskStatus.IN_PROGRESS)
    report(dock, firmware_version=NEW)
    report(dock, firmware_version=OLD)
    report(dock, "osd", mode_code=0)
    assert status(task) == TaskStatus.IN_PROGRESS
    target = task.targets.get()
    assert (target.is_confirmed, target.reported_version) == (False, OLD)


def test_an_aircraft_that_lost_its_version_is_not_proven_by_its_dock() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, aircraft=aircraft, status=TaskStatus.VERIFYING)
    report(aircraft, firmware_version=NEW)
    report(aircraft, firmware_version=OLD)
    report(dock, firmware_version=NEW)
    assert status(task) == TaskStatus.VERIFYING


def test_a_report_from_before_the_command_is_no_proof() -> None:
    task = make_task(make_dock(NEW), status=TaskStatus.VERIFYING)
    report(task.gateway, mode_code=0)
    assert status(task) == TaskStatus.VERIFYING


def test_a_consistency_upgrade_is_proven_by_the_device_asking_no_more() -> None:
    task = make_consistency_task()
    report(task.gateway, compatible_status=1)
    assert status(task) == TaskStatus.VERIFYING
    report(task.gateway, compatible_status=0)
    assert status(task) == TaskStatus.OK


def running_consistency(**fields: Any) -> UpgradeTask:
    """Of an aircraft, whose dock has said a moment ago how far it is, and does not tell its mode."""
    task = make_consistency_task(progress_seen_at=timezone.now(), percent=5, **fields)
    UpgradeTask.objects.update(status=TaskStatus.IN_PROGRESS)
    return task


def test_while_the_dock_goes_on_being_consistent_for_a_moment_is_no_proof() -> None:
    task = running_consistency()
    report(task.gateway, compatible_status=0)
    assert status(task) == TaskStatus.IN_PROGRESS
    report(task.gateway, compatible_status=1)
    proof.confirm_quiet(timezone.now() + dt.timedelta(minutes=2))
    assert status(task) == TaskStatus.IN_PROGRESS
    assert task.targets.get().confirmed_at is None


def test_a_dock_that_falls_quiet_leaves_a_consistency_upgrade_to_the_report() -> None:
    task = running_consistency()
    report(task.gateway, compatible_status=0)
    proof.confirm_quiet(timezone.now() + dt.timedelta(seconds=50))
    assert status(task) == TaskStatus.IN_PROGRESS
    proof.confirm_quiet(timezone.now() + dt.timedelta(seconds=70))
    assert status(task) == TaskStatus.OK


def test_a_consistency_upgrade_that_was_only_just_accepted_is_not_over() -> None:
    task = running_consistency()
    UpgradeTask.objects.update(status=TaskStatus.SENT, progress_seen_at=None)
    report(task.gateway, compatible_status=0)
    assert status(task) == TaskStatus.SENT


def test_reports_decide_when_the_final_ok_never_comes() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task.gateway, firmware_version=NEW)
    assert status(task) == TaskStatus.OK


def test_while_the_dock_says_that_it_is_upgrading_the_version_alone_does_not_end_it() -> None:
    task = make_task(make_dock(mode_code=3), status=TaskStatus.IN_PROGRESS)
    report(task.gateway, firmware_version=NEW)
    assert status(task) == TaskStatus.IN_PROGRESS
    report(task.gateway, "osd", mode_code=0)
    assert status(task) == TaskStatus.OK


def test_a_task_that_was_not_sent_is_not_proven_by_reports() -> None:
    task = make_task()
    report(task.gateway, firmware_version=NEW)
    assert status(task) == TaskStatus.PENDING


def test_a_task_that_failed_stays_failed() -> None:
    task = make_task(status=TaskStatus.FAILED)
    report(task.gateway, firmware_version=NEW)
    assert status(task) == TaskStatus.FAILED


def test_an_older_report_that_comes_late_proves_nothing() -> None:
    task = make_task(status=TaskStatus.VERIFYING)
    report(task.gateway, firmware_version=OLD)
    late = envelope({"firmware_version": NEW})
    late["timestamp"] = int((timezone.now() - dt.timedelta(hours=1)).timestamp() * 1000)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/state", late)])
    assert status(task) == TaskStatus.VERIFYING


# What was said before the command, and comes after it


def tell(device: Device, at: dt.datetime, **properties: Any) -> None:
    """A state that the dock stamped then."""
    message = envelope(properties, timestamp=stamp(at))
    pipeline.process([received(f"thing/product/{device.sn}/state", message)])


def restart(dock: Device, at: dt.datetime) -> None:
    """A topology, as after a start, with the dock's clock as it is then."""
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    message = envelope(data, "update_topo", timestamp=stamp(at))
    pipeline.process([received(f"sys/product/{dock.sn}/status", message)])


def taken(kind: str, *, has_reply: bool = True) -> UpgradeTask:
    """Of a dock that was last heard of ten minutes ago, sent five minutes ago."""
    old: dict[str, Any] = {
        f"{name}_{at}_at": ago(10) for name in ("firmware", "compatible") for at in _TIMES
    }
    dock = make_dock(NEW, compatible_status=1, **old) if kind == "consistency" else make_dock(**old)
    times: dict[str, Any] = {"sent_at": ago(5), "replied_at": ago(4.9) if has_reply else None}
    times["taken_at"] = times["replied_at"]
    task = make_task(dock, status=TaskStatus.IN_PROGRESS, **times)
    UpgradeTarget.objects.filter(task=task).update(upgrade_type=kind)
    return task


_TIMES = ("reported", "seen")
PROOFS: dict[str, dict[str, Any]] = {
    "regular": {"firmware_version": NEW},
    "consistency": {"compatible_status": 0},
}


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize("has_reply", [True, False])
def test_a_word_from_before_the_command_that_comes_late_is_no_proof(
    kind: str, *, has_reply: bool
) -> None:
    task = taken(kind, has_reply=has_reply)
    tell(task.gateway, ago(20), **PROOFS[kind])
    assert status(task) == TaskStatus.IN_PROGRESS
    assert "has not" in proof.shortfall(task.targets.all())


@pytest.mark.parametrize("kind", PROOFS)
def test_a_word_from_before_the_command_is_no_proof_after_a_start_either(kind: str) -> None:
    task = taken(kind)
    restart(task.gateway, timezone.now())
    tell(task.gateway, ago(20), **PROOFS[kind])
    assert status(task) == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", PROOFS)
def test_a_start_and_a_word_from_before_the_command_that_come_before_the_reply_are_no_proof(
    kind: str,
) -> None:
    """As after a short outage of the bridge, in which the command went out."""
    task = taken(kind, has_reply=False)
    restart(task.gateway, ago(7))
    tell(task.gateway, ago(6), **PROOFS[kind])
    assert status(task) == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", PROOFS)
def test_a_start_and_a_word_that_the_broker_kept_for_another_bridge_are_no_proof(kind: str) -> None:
    make_listening()
    sibling = make_listening()
    BridgeSession.objects.filter(pk=sibling.pk).update(connected_since=ago(0.5))
    task = taken(kind)
    restart(task.gateway, ago(7))
    tell(task.gateway, ago(6), **PROOFS[kind])
    assert status(task) == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", PROOFS)
def test_a_word_that_comes_between_the_replies_to_two_commands_is_no_proof(kind: str) -> None:
    task = taken(kind)
    tell(task.gateway, ago(4.95), **PROOFS[kind])
    ids = {"bid": task.bid, "tid": task.tid}
    reply = received(
        f"thing/product/{task.gateway.sn}/services_reply", envelope({"result": 0}, **ids)
    )
    pipeline.process([reply])
    proof.confirm(UpgradeTask.objects.all(), timezone.now())
    assert status(task) == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", PROOFS)
def test_a_dock_that_starts_with_a_slow_clock_proves_its_upgrade(kind: str) -> None:
    make_listening()
    task = taken(kind)
    restart(task.gateway, ago(180))
    tell(task.gateway, ago(179), **PROOFS[kind])
    assert status(task) == TaskStatus.OK


@pytest.mark.parametrize("kind", PROOFS)
def test_a_bridge_that_connects_anew_takes_no_start_back_that_it_heard_before(kind: str) -> None:
    bridge = make_listening()
    task = taken(kind)
    restart(task.gateway, ago(180))
    BridgeSession.objects.filter(pk=bridge.pk).update(connected_since=timezone.now())
    tell(task.gateway, ago(179), **PROOFS[kind])
    assert status(task) == TaskStatus.OK


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_start_that_came_while_a_bridge_caught_up_proves_nothing(*, is_connected: bool) -> None:
    make_listening(connected_since=ago(0.5) if is_connected else None)
    task = taken("regular")
    restart(task.gateway, ago(180))
    tell(task.gateway, ago(179), **PROOFS["regular"])
    assert status(task) == TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", PROOFS)
def test_a_dock_whose_clock_is_always_slow_proves_its_upgrade(kind: str) -> None:
    task = taken(kind)
    UpgradeTask.objects.update(taken_at=ago(64.9))
    tell(task.gateway, ago(61), **PROOFS[kind])
    assert status(task) == TaskStatus.OK


@pytest.mark.parametrize("kind", PROOFS)
def test_after_our_own_clock_was_set_back_docks_prove_their_upgrades(kind: str) -> None:
    task = taken(kind)
    UpgradeTask.objects.update(taken_at=timezone.now() + dt.timedelta(hours=1))
    tell(task.gateway, timezone.now(), **PROOFS[kind])
    assert status(task) == TaskStatus.OK


@pytest.mark.parametrize("number", [1, 20])
def test_proving_many_tasks_takes_as_many_queries_as_one(
    number: int, django_assert_max_num_queries: Any
) -> None:
    package, tasks = make_package(), []
    for _ in range(number):
        tasks.append(make_task(status=TaskStatus.VERIFYING))
        make_target(tasks[-1], make_aircraft(tasks[-1].gateway), package)
    batch = [
        received(f"thing/product/{device.sn}/state", envelope({"firmware_version": NEW}))
        for device in Device.objects.all()
    ]
    with django_assert_max_num_queries(18):
        pipeline.process(batch)
    assert {status(task) for task in tasks} == {TaskStatus.OK}
