"""Nothing is done until the device has proved it."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, router
from ota.models import UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from tests.make import (
    NEW,
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_package,
    make_target,
    make_task,
    received,
)

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
