"""From waiting to sent: what goes, what waits, what ends without being sent."""

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device, Site
from mqtt_bridge import pipeline, publisher, router
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from ota import delivery
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, judging
from tests.make import (
    NEW,
    OLD,
    envelope,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_rollout,
    make_task,
    make_wave,
    received,
)

pytestmark = pytest.mark.django_db


class Broker:
    """Takes what is published instead of a broker; the wire itself is tested with a real one."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.is_away = False
        self.outcome = Outcome.CONFIRMED

    def connect(self) -> None:
        if self.is_away:
            raise BrokerUnavailable("no connection to mqtt://broker")

    def publish(self, messages: Any) -> list[Outcome]:
        self.commands += [(topic, json.loads(payload)) for topic, payload in messages]
        return [self.outcome] * len(messages)


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    make_listening()
    fake = Broker()
    monkeypatch.setattr(publisher, "connect", fake.connect)
    monkeypatch.setattr(publisher, "publish", fake.publish)
    return fake


def tick() -> None:
    now = timezone.now()
    issue.look_again(now)
    issue.issue(issue.due(now), now)


def status(task: UpgradeTask) -> str:
    task.refresh_from_db()
    return task.status


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


def test_what_blocks_in_the_last_moment_holds_the_command_back(broker: Broker) -> None:
    dock = make_dock()
    task = make_task(dock)
    issue.look_again(timezone.now())
    Device.objects.filter(pk=dock.pk).update(emergency_stop_state=1)
    issue.issue([task.pk], timezone.now())
    assert status(task) == TaskStatus.PENDING
    assert not broker.commands


def dock_is_stopped(task: UpgradeTask) -> None:
    values = {"emergency_stop_state": 1, "changed_at": timezone.now()}
    Device.objects.filter(pk=task.gateway_id).update(**values)


def package_is_withdrawn(task: UpgradeTask) -> None:
    FirmwarePackage.objects.update(state=FirmwarePackage.State.WITHDRAWN)


def another_worker_was_faster(task: UpgradeTask) -> None:
    """And what it sent came back at once, so that the task waits again."""
    UpgradeTask.objects.filter(pk=task.pk).update(attempt=1)


def rollout_is_paused(task: UpgradeTask) -> None:
    Rollout.objects.update(status=Rollout.Status.PAUSED)


def hours_are_changed(task: UpgradeTask) -> None:
    Rollout.objects.update(windows="Mon 00:00-00:01")


@pytest.mark.parametrize(
    "event",
    [
        dock_is_stopped,
        package_is_withdrawn,
        another_worker_was_faster,
        rollout_is_paused,
        hours_are_changed,
    ],
)
def test_what_happens_while_the_command_is_made_holds_it_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, event: Callable[[UpgradeTask], None]
) -> None:
    task, other = make_task(), make_task(status=TaskStatus.IN_PROGRESS)
    issue.look_again(timezone.now())
    real = delivery.link

    def link(*what: Any) -> str:
        event(task)
        return real(*what)

    monkeypatch.setattr(delivery, "link", link)
    assert issue.issue([task.pk, other.pk], timezone.now()) == 0
    assert status(task) == TaskStatus.PENDING
    assert not broker.commands


@pytest.mark.parametrize("status", [Rollout.Status.CANCELED, Rollout.Status.PAUSED])
def test_a_canceled_or_paused_rollout_sends_nothing(broker: Broker, status: str) -> None:
    make_task(rollout=make_rollout(status=status))
    tick()
    assert not broker.commands


def test_without_a_broker_the_task_waits_again(broker: Broker) -> None:
    task = make_task()
    broker.is_away = True
    tick()
    assert status(task) == TaskStatus.PENDING
    assert (task.attempt, task.waits_for[0]["code"]) == (0, "broker_unavailable")


def test_an_unconfirmed_command_counts_as_sent_and_says_so(broker: Broker) -> None:
    task = make_task()
    broker.outcome = Outcome.DOUBTFUL
    tick()
    assert status(task) == TaskStatus.SENT
    assert "did not confirm" in task.events.get(kind="note").text


def test_a_command_that_the_broker_refuses_waits_as_if_it_had_never_been_made(
    broker: Broker,
) -> None:
    task = make_task(status_at=timezone.now() - dt.timedelta(hours=1))
    since = task.status_at
    broker.outcome = Outcome.REFUSED
    tick()
    assert (status(task), task.attempt, task.sent_at) == (TaskStatus.PENDING, 0, None)
    assert task.status_at == since  # nothing has happened, so its rollout stands still
    assert task.waits_for[0]["code"] == "broker_refused"
    assert "refused" in task.events.latest("pk").text


def test_a_command_that_the_broker_refused_is_tried_again_in_ten_minutes(broker: Broker) -> None:
    task = make_task(make_dock(changed_at=timezone.now()))
    broker.outcome = Outcome.REFUSED
    for _ in range(3):
        tick()
    assert len(broker.commands) == 1
    broker.outcome = Outcome.CONFIRMED
    with time_machine.travel(timezone.now() + dt.timedelta(minutes=10)):
        make_listening()
        Device.objects.update(last_seen_at=timezone.now())
        tick()
    assert (status(task), len(broker.commands)) == (TaskStatus.SENT, 2)


def test_of_commands_sent_together_those_that_surely_did_not_go_wait_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed, doubtful, unsent = (make_task(rollout=make_rollout()) for _ in range(3))
    outcomes = [Outcome.CONFIRMED, Outcome.DOUBTFUL, Outcome.UNSENT]
    monkeypatch.setattr(publisher, "publish", lambda _: outcomes)
    tick()
    assert [status(task) for task in (confirmed, doubtful)] == [TaskStatus.SENT] * 2
    assert status(unsent) == TaskStatus.PENDING
    assert (unsent.attempt, unsent.waits_for[0]["code"]) == (0, "broker_unavailable")
    notes = [task.events.filter(kind="note").count() for task in (confirmed, doubtful, unsent)]
    assert notes == [0, 1, 0]


def test_each_attempt_has_its_own_tid_and_the_bid_stays(broker: Broker) -> None:
    task = make_task()
    tick()
    UpgradeTask.objects.move([task.pk], TaskStatus.PENDING, timezone.now(), checked_at=None)
    Device.objects.update(last_seen_at=timezone.now())
    tick()
    first, second = (message for _, message in broker.commands)
    assert first["bid"] == second["bid"]
    assert first["tid"] != second["tid"]


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


def test_a_command_that_cannot_be_made_holds_only_its_own_task(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_rollout()
    bad, good = make_task(rollout=rollout), make_task(rollout=rollout)
    real = delivery.link

    def link(task_id: int, package: FirmwarePackage) -> str:
        if task_id == bad.pk:
            raise OSError("no keys for the bucket")
        return real(task_id, package)

    monkeypatch.setattr(delivery, "link", link)
    tick()
    assert status(good) == TaskStatus.SENT
    assert status(bad) == TaskStatus.PENDING
    assert bad.waits_for[0]["code"] == "no_link"


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
