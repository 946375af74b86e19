"""From waiting to sent: what goes and what waits."""

import datetime as dt
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device, Site
from ota.models import FirmwarePackage, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, judging
from tests.make import (
    NEW,
    make_aircraft,
    make_dock,
    make_organization,
    make_rollout,
    make_task,
    make_wave,
)
from tests.ota.broker import Broker, status, tick

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_the_command_names_all_seven_fields_of_both_devices(broker: Broker) -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    task = make_task(dock, aircraft=aircraft)
    tick()
    topic, message = broker.commands[0]
    assert topic == f"thing/product/{dock.sn}/services"
    assert (message["method"], message["bid"]) == ("ota_create", task.bid)
    assert [device["sn"] for device in message["data"]["devices"]] == [aircraft.sn, dock.sn]
    assert set(message["data"]["devices"][0]) == {
        "sn", "product_version", "file_url", "md5", "file_size", "file_name", "firmware_upgrade_type",
    }  # fmt: skip
    assert message["data"]["devices"][0]["firmware_upgrade_type"] == 3


def test_a_consistency_upgrade_is_number_two_on_the_wire(broker: Broker) -> None:
    task = make_task(make_dock(NEW, compatible_status=1))
    task.targets.update(upgrade_type="consistency")
    tick()
    assert broker.commands[0][1]["data"]["devices"][0]["firmware_upgrade_type"] == 2


def test_a_task_is_marked_sent_with_its_command_in_the_history() -> None:
    task = make_task()
    tick()
    assert status(task) == TaskStatus.SENT
    assert (task.attempt, task.sent_at is not None) == (1, True)
    assert task.events.get(kind="command").tid == task.tid


def test_a_blocked_task_waits_and_says_for_what(broker: Broker) -> None:
    task = make_task(make_dock(mode_code=4))
    tick()
    assert status(task) == TaskStatus.PENDING
    assert [reason["code"] for reason in task.waits_for] == ["busy"]
    assert not broker.commands


def test_a_waiting_task_goes_when_its_dock_reports_that_it_is_free() -> None:
    dock = make_dock(mode_code=4)
    task = make_task(dock)
    tick()
    Device.objects.filter(pk=dock.pk).update(mode_code=0, changed_at=timezone.now())
    tick()
    assert status(task) == TaskStatus.SENT


def test_a_dock_that_nobody_has_heard_for_a_minute_gets_no_command(broker: Broker) -> None:
    """Also before anybody has marked it as offline, as after a stop of the workers."""
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=61))
    task = make_task(dock)
    tick()
    assert not broker.commands
    assert status(task) == TaskStatus.PENDING
    assert [reason["code"] for reason in task.waits_for] == ["offline"]
    # Hearing it may change nothing else that would wake the task.
    assert task.due_at
    assert task.due_at <= timezone.now() + judging.LOOK_AGAIN


def test_a_task_whose_dock_changed_nothing_is_not_looked_at_again(
    django_assert_num_queries: Any,
) -> None:
    make_task(make_dock(mode_code=4))
    tick()
    with django_assert_num_queries(1):
        issue.look_again(timezone.now())


def test_only_as_many_are_in_flight_as_the_rollout_allows(broker: Broker) -> None:
    rollout = make_rollout(limit_in_flight=2)
    for _ in range(5):
        make_task(rollout=rollout)
    tick()
    tick()
    assert len(broker.commands) == 2


def test_only_as_many_of_a_site_are_in_flight_as_the_rollout_allows(broker: Broker) -> None:
    rollout, organization = make_rollout(limit_per_site=1), make_organization()
    sites = [Site.objects.create(organization=organization, name=name) for name in "AB"]
    for site in [*sites, *sites, None, None]:
        make_task(make_dock(organization=organization, site=site), rollout=rollout)
    tick()
    tick()
    # One for each site, and those that stand nowhere share none.
    assert len(broker.commands) == 4


def test_what_other_rollouts_do_at_a_site_counts(broker: Broker) -> None:
    organization = make_organization()
    site = Site.objects.create(organization=organization, name="A")
    docks = [make_dock(organization=organization, site=site) for _ in range(2)]
    make_task(docks[0], status=TaskStatus.IN_PROGRESS)
    make_task(docks[1], rollout=make_rollout(limit_per_site=1))
    tick()
    assert not broker.commands


def test_only_as_many_are_in_flight_as_the_system_allows(
    broker: Broker, settings: Settings
) -> None:
    settings.SYSTEM_LIMIT_IN_FLIGHT = 3
    make_task(status=TaskStatus.VERIFYING)
    for _ in range(4):
        make_task()
    tick()
    tick()
    assert len(broker.commands) == 2


def test_a_slot_is_free_again_when_an_upgrade_has_ended(broker: Broker) -> None:
    rollout = make_rollout(limit_in_flight=1)
    first, second = make_task(rollout=rollout), make_task(rollout=rollout)
    tick()
    UpgradeTask.objects.move([first.pk], TaskStatus.FAILED, timezone.now())
    tick()
    assert [message["bid"] for _, message in broker.commands] == [first.bid, second.bid]


def test_earlier_waves_have_the_slots_first(broker: Broker) -> None:
    rollout = make_rollout(limit_in_flight=1)
    late = make_task(rollout=rollout)
    early = make_task(rollout=rollout)
    UpgradeTask.objects.filter(pk=late.pk).update(wave=make_wave(rollout, 2))
    tick()
    assert broker.commands[0][1]["bid"] == early.bid


def test_the_limit_holds_also_for_a_worker_with_an_old_list(broker: Broker) -> None:
    rollout = make_rollout(limit_in_flight=1)
    tasks = [make_task(rollout=rollout) for _ in range(3)]
    issue.look_again(timezone.now())
    assert issue.issue([task.pk for task in tasks], timezone.now()) == 1
    assert issue.issue([task.pk for task in tasks], timezone.now()) == 0


def test_a_task_is_not_issued_twice(broker: Broker) -> None:
    task = make_task()
    issue.look_again(timezone.now())
    for _ in range(2):
        issue.issue([task.pk], timezone.now())
    assert len(broker.commands) == 1


def test_each_attempt_has_its_own_tid_and_the_bid_stays(broker: Broker) -> None:
    task = make_task()
    tick()
    UpgradeTask.objects.move([task.pk], TaskStatus.PENDING, timezone.now(), checked_at=None)
    Device.objects.update(last_seen_at=timezone.now())
    tick()
    first, second = (message for _, message in broker.commands)
    assert first["bid"] == second["bid"]
    assert first["tid"] != second["tid"]


@pytest.mark.parametrize("number", [2, 30])
def test_a_tick_takes_as_many_queries_for_many_tasks_as_for_few(
    number: int, django_assert_max_num_queries: Any
) -> None:
    rollout, organization = make_rollout(limit_in_flight=100), make_organization()
    for _ in range(number):
        dock = make_dock(organization=organization)
        make_task(dock, rollout=rollout, aircraft=make_aircraft(dock))
    with django_assert_max_num_queries(47):
        tick()


def test_issuing_takes_as_many_queries_for_many_tasks_as_for_few() -> None:
    rollout, organization = make_rollout(limit_in_flight=100), make_organization()
    found = []
    for number in (2, 30):
        docks = [make_dock(organization=organization) for _ in range(number)]
        pks = [make_task(d, rollout=rollout, aircraft=make_aircraft(d)).pk for d in docks]
        issue.look_again(timezone.now())
        with CaptureQueriesContext(connection) as queries:
            assert issue.issue(pks, timezone.now()) == number
        found.append(len(queries))
    assert found[0] == found[1] <= 32


def test_a_task_waits_some_seconds_after_its_dock_came_online() -> None:
    task = make_task(make_dock(online_since=timezone.now()))
    tick()
    task.refresh_from_db()
    assert task.due_at
    assert task.due_at - timezone.now() < dt.timedelta(seconds=11)


def test_the_reasons_are_stored_as_interfaces_promise() -> None:
    task = make_task(make_dock(mode_code=3))
    tick()
    task.refresh_from_db()
    assert msgspec.convert(task.waits_for, list[dict[str, str]]) == [
        {"code": "busy", "text": "the dock is upgrading firmware"}
    ]


def test_an_aircraft_that_is_upgraded_through_another_dock_is_waited_for(broker: Broker) -> None:
    old_dock = make_dock()
    aircraft = make_aircraft(old_dock)
    make_task(old_dock, aircraft=aircraft, status=TaskStatus.IN_PROGRESS)
    new_dock = make_dock(organization=old_dock.organization)
    Device.objects.filter(pk=aircraft.pk).update(gateway=new_dock)
    task = make_task(new_dock, aircraft=aircraft)
    tick()
    assert status(task) == TaskStatus.PENDING
    assert [reason["code"] for reason in task.waits_for] == ["open_task"]


def test_a_device_that_fell_below_the_packages_minimum_waits_until_it_is_there(
    broker: Broker,
) -> None:
    dock = make_dock()
    task = make_task(dock)
    FirmwarePackage.objects.update(minimum_version="10.01.2000", minimum_number=10012000)
    tick()
    assert [(r["code"], r["text"]) for r in UpgradeTask.objects.get().waits_for] == [
        ("needs_first", "needs 10.01.2000 first: add its package to the library")
    ]
    Device.objects.filter(pk=dock.pk).update(
        firmware_version="10.01.2000", firmware_number=10012000, changed_at=timezone.now()
    )
    tick()
    assert status(task) == TaskStatus.SENT


def test_dock_and_aircraft_that_need_the_same_version_first_say_so_once() -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock, presence="off"))
    FirmwarePackage.objects.update(minimum_version="10.01.2000", minimum_number=10012000)
    tick()
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["needs_first"]
