"""What ends without being sent, because the world has changed while it waited."""

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, router
from ota.models import FirmwarePackage, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import (
    NEW,
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_organization,
    make_task,
    received,
)
from tests.ota.broker import Broker, status, tick

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def end_of(task: UpgradeTask) -> tuple[str, str]:
    tick()
    return status(task), task.events.latest("pk").text


def test_a_withdrawn_package_cancels_what_was_not_sent() -> None:
    task = make_task()
    FirmwarePackage.objects.update(state=FirmwarePackage.State.WITHDRAWN)
    ended, why = end_of(task)
    assert ended == TaskStatus.CANCELED
    assert "was withdrawn" in why


@pytest.mark.parametrize("state", ["checking", "draft"])
def test_a_package_that_is_not_available_now_is_waited_for(state: str) -> None:
    task = make_task()
    FirmwarePackage.objects.update(state=state)
    issue.look_again(timezone.now())
    task.refresh_from_db()
    assert task.status == TaskStatus.PENDING
    assert "package_unavailable" in [reason["code"] for reason in task.waits_for]


def test_an_aircraft_that_moved_to_another_dock_cancels() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, aircraft=aircraft)
    Device.objects.filter(pk=aircraft.pk).update(gateway=make_dock())
    ended, why = end_of(task)
    assert ended == TaskStatus.CANCELED
    assert aircraft.sn in why


def test_a_dock_that_left_its_organization_cancels() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, aircraft=aircraft)
    Device.objects.filter(pk=dock.pk).update(organization=make_organization())
    assert end_of(task)[0] == TaskStatus.CANCELED


def test_a_dock_that_another_organization_got_with_its_aircraft_cancels() -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock))
    Device.objects.update(organization=make_organization())
    ended, why = end_of(task)
    assert ended == TaskStatus.CANCELED
    assert why == f"{dock.sn} belongs to another organization than when this was planned"


def test_a_dock_that_another_one_brought_into_its_organization_cancels(broker: Broker) -> None:
    dock = make_dock(bound_at=None)
    ended, why = end_of(make_task(dock))
    assert ended == TaskStatus.CANCELED
    assert why == f"{dock.sn} is in its organization only because another dock said so"
    assert not broker.commands


def test_an_upgrade_of_an_aircraft_that_turns_out_to_be_a_dock_is_called_off(
    broker: Broker,
) -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock, sn="DOCK2", bound_at=None))
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    router.discover()
    pipeline.process([received("sys/product/DOCK2/status", envelope(data, "update_topo"))])
    assert end_of(task)[0] == TaskStatus.CANCELED
    assert not broker.commands


def test_a_device_that_got_newer_meanwhile_is_not_downgraded(broker: Broker) -> None:
    dock = make_dock()
    task = make_task(dock)
    Device.objects.filter(pk=dock.pk).update(
        firmware_version="17.01.0001", firmware_number=17010001
    )
    ended, why = end_of(task)
    assert ended == TaskStatus.CANCELED
    assert "downgrade" in why
    assert not broker.commands


def test_devices_that_have_the_version_meanwhile_end_as_proven(broker: Broker) -> None:
    dock = make_dock()
    task = make_task(dock)
    Device.objects.filter(pk=dock.pk).update(firmware_version=NEW, firmware_number=10013205)
    assert end_of(task)[0] == TaskStatus.OK
    assert not broker.commands


def test_a_target_that_has_the_version_meanwhile_is_left_out_of_the_command(broker: Broker) -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    make_task(dock, aircraft=aircraft)
    Device.objects.filter(pk=aircraft.pk).update(firmware_version=NEW, firmware_number=10013205)
    tick()
    assert [device["sn"] for device in broker.commands[0][1]["data"]["devices"]] == [dock.sn]


def test_a_package_that_no_longer_fits_the_device_is_not_sent(broker: Broker) -> None:
    task = make_task()
    task.targets.get().package.models.clear()
    ended, why = end_of(task)
    assert ended == TaskStatus.CANCELED
    assert "does not fit" in why


def test_a_device_that_was_rolled_back_while_its_task_waited_is_in_the_command(
    broker: Broker,
) -> None:
    dock = make_dock(mode_code=4)
    aircraft = make_aircraft(dock)
    make_task(dock, aircraft=aircraft)
    Device.objects.filter(pk=aircraft.pk).update(firmware_version=NEW, firmware_number=10013205)
    tick()
    Device.objects.filter(pk=aircraft.pk).update(firmware_version=OLD, firmware_number=10011607)
    Device.objects.filter(pk=dock.pk).update(mode_code=0, changed_at=timezone.now())
    tick()
    assert len(broker.commands[0][1]["data"]["devices"]) == 2


def test_an_aircraft_that_asks_for_consistency_again_while_its_task_waits_is_in_the_command(
    broker: Broker,
) -> None:
    dock = make_dock(mode_code=4)
    aircraft = make_aircraft(dock, NEW, compatible_status=0)
    task = make_task(dock, aircraft=aircraft)
    task.targets.filter(device=aircraft).update(
        upgrade_type="consistency", confirmed_at=timezone.now()
    )
    values = {"compatible_status": 1, "changed_at": timezone.now()}
    Device.objects.filter(pk=aircraft.pk).update(**values)
    Device.objects.filter(pk=dock.pk).update(mode_code=0, changed_at=timezone.now())
    tick()
    assert len(broker.commands[0][1]["data"]["devices"]) == 2
