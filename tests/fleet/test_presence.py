"""Topology: docks with their aircraft, and who may say what about whom."""

import datetime as dt
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet import binding, presence
from fleet.models import Device, Organization, Site
from fleet.presence import Topology
from mqtt_bridge import pipeline, router
from mqtt_bridge.envelope import Message, Reply
from mqtt_bridge.pipeline import Read
from tests.fleet.locks import someone_waits
from tests.make import (
    envelope,
    make_aircraft,
    make_device,
    make_dock,
    make_organization,
    received,
)
from tests.processes import eventually

pytestmark = pytest.mark.django_db

AIRCRAFT = {"domain": "0", "type": 91, "sub_type": 1, "index": "A"}


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


def topology(sn: str, *aircraft: str, seconds_ago: float = 0, **fields: Any) -> list[Reply]:
    return pipeline.process([told(sn, *aircraft, seconds_ago=seconds_ago, **fields)])


def told(sn: str, *aircraft: str, seconds_ago: float = 0, **fields: Any) -> Read:
    children = [AIRCRAFT | {"sn": child} for child in aircraft]
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": children} | fields
    at = int((timezone.now().timestamp() - seconds_ago) * 1000)
    return received(f"sys/product/{sn}/status", envelope(data, "update_topo", timestamp=at))


def stored(sn: str) -> Device:
    return Device.objects.get(sn=sn)


def test_a_dock_and_its_aircraft_come_online() -> None:
    topology("DOCK1", "AIR1")
    dock, aircraft = stored("DOCK1"), stored("AIR1")
    assert (dock.model and dock.model.key, aircraft.model and aircraft.model.key) == (
        "3-2-0",
        "0-91-1",
    )
    assert aircraft.gateway == dock
    assert dock.is_online
    assert aircraft.is_online


def test_it_is_answered_with_its_own_ids() -> None:
    (reply,) = topology("DOCK1")
    assert (reply.method, reply.data) == ("update_topo", {"result": 0})


def test_numbers_as_text_and_a_missing_domain_are_understood() -> None:
    topology("DOCK1", domain=None, type="3", sub_type="0", version=7)
    model = stored("DOCK1").model
    assert model
    assert model.key == "3-3-0"


def test_an_empty_list_means_that_the_aircraft_is_off_and_still_there() -> None:
    topology("DOCK1", "AIR1", seconds_ago=2)
    topology("DOCK1")
    aircraft = stored("AIR1")
    assert (aircraft.presence, aircraft.gateway) == ("off", stored("DOCK1"))
    assert stored("DOCK1").is_online


def test_a_list_that_cannot_be_read_says_nothing_about_the_aircraft() -> None:
    topology("DOCK1", "AIR1", seconds_ago=2)
    topology("DOCK1", sub_devices="none")
    assert stored("AIR1").is_online


def test_an_aircraft_follows_the_dock_that_named_it_last() -> None:
    topology("DOCK1", "AIR1", seconds_ago=2)
    topology("DOCK2", "AIR1")
    assert stored("AIR1").gateway == stored("DOCK2")
    topology("DOCK1", "AIR1", seconds_ago=1)
    assert stored("AIR1").gateway == stored("DOCK2")


def test_another_aircraft_in_the_dock_takes_the_place_of_the_first() -> None:
    topology("DOCK1", "AIR1", seconds_ago=2)
    topology("DOCK1", "AIR2")
    assert stored("AIR2").gateway == stored("DOCK1")
    assert stored("AIR1").gateway is None


def test_an_overtaken_topology_changes_nothing() -> None:
    topology("DOCK1", "AIR1", seconds_ago=1)
    topology("DOCK1", seconds_ago=5)
    assert stored("AIR1").is_online


def test_a_topology_that_hung_in_a_bridge_does_not_take_an_aircraft_back() -> None:
    with time_machine.travel(timezone.now() - dt.timedelta(minutes=10)):
        hung = told("DOCK1", "AIR1")
    with time_machine.travel(timezone.now() - dt.timedelta(minutes=5)):
        topology("DOCK2", "AIR1")
    pipeline.process([hung])
    assert stored("AIR1").gateway == stored("DOCK2")


def test_a_topology_that_the_broker_sends_again_is_no_second_start() -> None:
    first = told("DOCK1", "AIR1")
    pipeline.process([first])
    Device.objects.update(mode_code=4)
    replies = pipeline.process([pipeline.read(first.received._replace(is_again=True))])
    assert [stored(sn).mode_code for sn in ("DOCK1", "AIR1")] == [4, 4]
    assert [reply.data for reply in replies] == [{"result": 0}]


def test_after_our_clock_has_jumped_back_a_topology_counts_at_once() -> None:
    topology("DOCK1", "AIR1")
    ahead = timezone.now() + dt.timedelta(hours=1)
    Device.objects.update(topology_at=ahead, topology_seen_at=ahead)
    topology("DOCK2", "AIR1")
    assert stored("AIR1").gateway == stored("DOCK2")


def test_a_topology_that_the_broker_kept_says_who_belongs_to_whom_but_not_who_is_online() -> None:
    topology("DOCK1", "AIR1", seconds_ago=600)
    assert stored("AIR1").gateway == stored("DOCK1")
    assert not stored("DOCK1").is_online


def test_a_dock_that_starts_with_a_slow_clock_starts_anew_like_any() -> None:
    before = timezone.now() - dt.timedelta(hours=1)
    make_dock(sn="DOCK1", online_since=before)
    topology("DOCK1", seconds_ago=7200)
    dock = stored("DOCK1")
    assert dock.online_since
    assert dock.online_since > before
    assert dock.mode_code is None


def test_a_topology_without_a_method_is_understood_and_answered() -> None:
    make_dock(sn="DOCK1")
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": [AIRCRAFT | {"sn": "AIR1"}]}
    message = envelope(data)
    (answer,) = pipeline.process([received("sys/product/DOCK1/status", message)])
    assert (answer.tid, answer.data) == (message["tid"], {"result": 0})
    assert stored("AIR1").gateway == stored("DOCK1")


def test_what_else_comes_without_a_method_is_no_topology() -> None:
    """Such as the last will of a dock."""
    make_aircraft(make_dock(sn="DOCK1"), sn="AIR1")
    pipeline.process([received("sys/product/DOCK1/status", envelope({"online": False}))])
    assert stored("AIR1").is_online
    assert stored("DOCK1").mode_code == 0


def test_a_dock_cannot_take_the_aircraft_of_another_organization() -> None:
    victim = make_dock()
    aircraft = make_aircraft(victim)
    thief = make_dock(organization=make_organization())
    topology(thief.sn, aircraft.sn)
    assert stored(aircraft.sn).gateway == victim


def test_a_dock_cannot_call_another_dock_its_aircraft() -> None:
    dock, other = make_dock(), make_dock()
    topology(dock.sn, other.sn)
    assert stored(other.sn).gateway is None
    assert stored(other.sn).is_dock


def test_an_aircraft_that_is_nobodys_comes_with_its_dock() -> None:
    dock = make_dock()
    topology(dock.sn, "AIR1")
    assert stored("AIR1").organization == dock.organization


def bind(sn: str, organization: Organization, **fields: Any) -> Any:
    """The dock binds itself with the organization's own code; the error code."""
    code, identifier = organization.binding_code, organization.identifier
    device = {"sn": sn, "device_binding_code": code, "organization_id": identifier} | fields
    message = envelope({"bind_devices": [device]}, "airport_organization_bind")
    (reply,) = pipeline.process([received(f"thing/product/{sn}/requests", message)])
    return reply.data["output"]["err_infos"][0]["err_code"]


@pytest.mark.parametrize("product", [AIRCRAFT, {}, {"domain": "7", "type": 91}])
def test_a_dock_that_another_one_called_its_aircraft_is_nobodys(
    product: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = make_dock()
    topology(other.sn, sub_devices=[product | {"sn": "DOCK1"}], seconds_ago=2)
    topology("DOCK1")
    dock = stored("DOCK1")
    assert (dock.is_dock, dock.organization, dock.gateway) == (True, None, None)
    assert f"DOCK1 is taken out of {other.organization}" in caplog.text


def test_a_dock_that_is_called_an_aircraft_in_the_batch_in_which_it_starts_is_nobodys() -> None:
    other = make_dock()
    pipeline.process([told(other.sn, "DOCK1", seconds_ago=2), told("DOCK1", seconds_ago=1)])
    assert (stored("DOCK1").is_dock, stored("DOCK1").organization) == (True, None)


def test_a_dock_that_was_bound_before_its_first_topology_stays_bound() -> None:
    organization = make_organization()
    assert bind("DOCK1", organization) == 0
    topology("DOCK1")
    assert stored("DOCK1").organization == organization


def test_a_dock_that_bound_itself_after_another_one_had_named_it_stays_bound() -> None:
    organization = make_organization()
    topology(make_dock().sn, "DOCK1", seconds_ago=2)
    assert bind("DOCK1", organization) == 0
    topology("DOCK1", "AIR1")
    assert (stored("DOCK1").organization, stored("DOCK1").is_dock) == (organization, True)
    assert stored("AIR1").organization == organization


def test_a_dock_that_a_person_adopted_before_its_first_topology_stays_adopted() -> None:
    organization = make_organization()
    stray = make_device(model="3-2-0", sn="DOCK1", organization=None)
    Device.objects.update(model=None)
    binding.adopt(Device.objects.filter(pk=stray.pk), organization, timezone.now())
    topology("DOCK1")
    assert stored("DOCK1").organization == organization


@pytest.mark.parametrize("is_adopted", [True, False])
def test_a_bound_dock_that_another_one_of_its_organization_calls_its_aircraft_stays_bound(
    is_adopted: bool,
) -> None:
    organization = make_organization()
    liar = make_dock(organization=organization).sn
    if is_adopted:
        stray = make_device(model="3-2-0", sn="DOCK1", organization=None)
        Device.objects.filter(pk=stray.pk).update(model=None)
        binding.adopt(Device.objects.filter(pk=stray.pk), organization, timezone.now())
    else:
        assert bind("DOCK1", organization) == 0
    topology(liar, "DOCK1", seconds_ago=2)
    assert (stored("DOCK1").is_bound, stored("DOCK1").gateway) == (True, None)
    topology("DOCK1")
    assert (stored("DOCK1").organization, stored("DOCK1").is_dock) == (organization, True)


@pytest.mark.parametrize("product", [AIRCRAFT, {}])
def test_a_dock_that_was_adopted_as_the_aircraft_of_another_one_is_nobodys(
    product: dict[str, Any],
) -> None:
    other = make_dock(organization=None)
    topology(other.sn, sub_devices=[product | {"sn": "DOCK1"}], seconds_ago=2)
    binding.adopt(Device.objects.filter(pk=other.pk), make_organization(), timezone.now())
    assert stored("DOCK1").organization
    topology("DOCK1")
    assert stored("DOCK1").organization is None


def test_a_known_dock_keeps_its_organization_and_its_aircraft_when_it_starts() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    topology(dock.sn, aircraft.sn)
    assert stored(dock.sn).organization == dock.organization
    assert stored(aircraft.sn).organization == dock.organization


def test_a_dock_that_came_into_an_organization_as_an_aircraft_is_freed_with_its_own_aircraft() -> (
    None
):
    """As it stands in the database where it was brought in before that was looked at."""
    site = Site.objects.create(organization=make_organization(), name="North")
    dock = make_dock(organization=site.organization, site=site, bound_at=None)
    aircraft = make_aircraft(dock, bound_at=None)
    topology(dock.sn, aircraft.sn)
    free, brought = stored(dock.sn), stored(aircraft.sn)
    assert (free.organization, free.site, brought.organization) == (None, None, None)
    assert brought.gateway == dock
    assert brought.is_online
    owner = make_organization()
    assert bind(dock.sn, owner) == 0
    topology(dock.sn, aircraft.sn)
    assert (stored(dock.sn).organization, stored(aircraft.sn).organization) == (owner, owner)


@pytest.mark.parametrize("version", ["1.0.0", "1.4.1", "99.0", "", 3])
def test_no_thing_version_is_refused(version: Any) -> None:
    topology("DOCK1", "AIR1", thing_version=version)
    assert stored("DOCK1").is_online


@pytest.mark.parametrize("child", ["", "../x", "a b"])
def test_an_impossible_serial_number_of_a_child_is_passed_by(child: str) -> None:
    topology("DOCK1", child, "AIR1")
    assert set(Device.objects.values_list("sn", flat=True)) == {"DOCK1", "AIR1"}


def test_a_dock_that_starts_has_to_report_its_state_anew() -> None:
    dock = make_dock(mode_code=0, drone_in_dock=1)
    topology(dock.sn)
    device = stored(dock.sn)
    assert (device.mode_code, device.drone_in_dock) == (None, None)


@pytest.mark.parametrize("kind", ["osd", "state"])
def test_what_a_dock_said_right_before_its_start_does_not_count_after_it(kind: str) -> None:
    dock = make_dock()
    before = said(dock.sn, {"mode_code": 0, "drone_in_dock": 1}, kind, seconds_ago=1)
    pipeline.process([before, told(dock.sn, seconds_ago=0.5)])
    device = stored(dock.sn)
    assert (device.mode_code, device.drone_in_dock) == (None, None)
    pipeline.process([said(dock.sn, {"mode_code": 1}, kind)])
    assert stored(dock.sn).mode_code == 1


def test_what_a_dock_says_right_after_its_start_counts_in_the_same_batch() -> None:
    dock = make_dock()
    after = said(dock.sn, {"mode_code": 1}, "osd", seconds_ago=0.5)
    pipeline.process([told(dock.sn, seconds_ago=1), after])
    assert stored(dock.sn).mode_code == 1


def said(sn: str, data: dict[str, Any], kind: str, seconds_ago: float = 0) -> Read:
    at = int((timezone.now().timestamp() - seconds_ago) * 1000)
    return received(f"thing/product/{sn}/{kind}", envelope(data, timestamp=at))


def test_a_dock_has_one_aircraft_whatever_it_says() -> None:
    topology("DOCK1", "AIR1", "AIR2")
    assert [d.sn for d in Device.objects.filter(gateway__sn="DOCK1")] == ["AIR1"]


def test_a_list_that_no_dock_would_send_is_not_read() -> None:
    topology("DOCK1", *(f"AIR{number}" for number in range(50)))
    assert [device.sn for device in Device.objects.all()] == ["DOCK1"]


def test_a_dock_that_calls_a_dock_its_aircraft_does_not_change_what_it_is() -> None:
    topology("DOCK1", "AIR1", seconds_ago=4)
    topology("DOCK2", seconds_ago=3)
    topology("DOCK1", "DOCK2")
    second = stored("DOCK2")
    assert (second.gateway, second.model and second.model.key) == (None, "3-2-0")


def test_docks_that_swap_their_aircraft_within_a_batch_have_each_others() -> None:
    topology("DOCK1", "AIR1", seconds_ago=9)
    topology("DOCK2", "AIR2", seconds_ago=8)
    pipeline.process([told("DOCK2", "AIR1", seconds_ago=3), told("DOCK1", "AIR2", seconds_ago=2)])
    first, second = stored("AIR1"), stored("AIR2")
    assert (first.gateway, second.gateway) == (stored("DOCK2"), stored("DOCK1"))
    assert (first.is_online, second.is_online) == (True, True)


@pytest.mark.parametrize("docks", [5, 50])
def test_however_many_docks_come_back_at_once_the_statements_stay_the_same(docks: int) -> None:
    pairs = [(f"DOCK{number}", f"AIR{number}") for number in range(docks)]
    pipeline.process([told(*pair, seconds_ago=5) for pair in pairs])
    messages = [told(*pair) for pair in pairs]
    with CaptureQueriesContext(connection) as queries:
        pipeline.process(messages)
    assert len(queries) == 9  # with the transaction's two
    assert Device.objects.filter(presence=Device.Presence.ONLINE).count() == 2 * docks


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_of_two_docks_that_name_one_aircraft_at_once_the_later_one_has_it() -> None:
    """Two bridges, or the two halves of a batch: whoever comes second waits for the first."""
    organization = make_organization()
    docks = [make_dock(sn=sn, organization=organization) for sn in ("DOCK1", "DOCK2")]
    make_aircraft(docks[0], sn="AIR1")

    def say_earlier() -> None:
        try:
            topology("DOCK1", "AIR1", seconds_ago=5)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as second:
        with transaction.atomic():
            topology("DOCK2", "AIR1", seconds_ago=1)
            earlier = second.submit(say_earlier)
            eventually(lambda: earlier.done() or someone_waits(), "the second one", 10)
        earlier.result()
    assert stored("AIR1").gateway == docks[1]


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_bridges_that_bring_in_topologies_do_not_wait_for_each_others_aircraft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the two halves of a batch."""
    organization = make_organization()
    docks = [make_dock(sn=sn, organization=organization) for sn in ("DOCK1", "DOCK2")]
    for dock, sn in zip(docks, ("AIR1", "AIR2"), strict=True):
        make_aircraft(dock, sn=sn)
    have_met, update = threading.Event(), presence.update
    both = threading.Barrier(1 if connection.vendor == "sqlite" else 2, have_met.set)

    def meet(messages: Sequence[Message[Topology]], now: dt.datetime) -> None:
        update(messages, now)
        if not have_met.is_set():
            both.wait()

    monkeypatch.setattr(presence, "update", meet)

    def bring_in(dock: str, aircraft: str, other: str) -> None:
        """A batch that has to be brought in again is given up."""
        osd = said(other, {"mode_code": 1}, "osd")
        try:
            pipeline.process([told(dock, aircraft, seconds_ago=1), osd])
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as bridges:
        one = bridges.submit(bring_in, "DOCK1", "AIR1", "AIR2")
        bridges.submit(bring_in, "DOCK2", "AIR2", "AIR1").result()
        one.result()
    assert not Device.objects.filter(topology_at=None).exists()
