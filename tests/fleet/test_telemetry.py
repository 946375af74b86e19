"""What we keep of osd and state, and who is online."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import time_machine
from django.db import DataError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from database import bulk
from fleet import telemetry
from fleet.models import Device
from mqtt_bridge import pipeline, router
from tests import routes
from tests.fleet.locks import someone_waits
from tests.make import NEW, OLD, envelope, make_aircraft, make_device, make_dock, received
from tests.processes import eventually

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


def say(
    sn: str,
    data: Any,
    kind: str = "osd",
    seconds_ago: float = 0,
    *,
    is_again: bool = False,
    **fields: Any,
) -> None:
    at = timezone.now() - dt.timedelta(seconds=seconds_ago)
    message = envelope(data, timestamp=int(at.timestamp() * 1000), **fields)
    pipeline.process([received(f"thing/product/{sn}/{kind}", message, is_again=is_again)])


def stored(sn: str) -> Device:
    return Device.objects.get(sn=sn)


def test_a_device_that_speaks_without_being_known_is_kept_unclaimed() -> None:
    say("NEWDOCK1", {"mode_code": 0})
    device = stored("NEWDOCK1")
    assert (device.organization, device.is_online, device.mode_code) == (None, True, 0)


def test_partial_messages_are_merged_by_key() -> None:
    dock = make_dock()
    say(dock.sn, {"mode_code": 4, "drone_charge_state": {"capacity_percent": 55}})
    say(dock.sn, {"flighttask_step_code": 1, "wireless_link": {"link_workmode": 1}})
    device = stored(dock.sn)
    assert (device.mode_code, device.battery_percent) == (4, 55)
    assert (device.flighttask_step_code, device.link_workmode) == (1, 1)


def test_what_two_groups_say_about_the_battery_is_kept_apart() -> None:
    dock = make_dock()
    batteries = [{"capacity_percent": 15}, {"capacity_percent": 95}]
    for _ in range(2):
        say(dock.sn, {"drone_charge_state": {"capacity_percent": 55}})
        say(dock.sn, {"drone_battery_maintenance_info": {"batteries": batteries}})
        device = stored(dock.sn)
        assert (device.battery_percent, device.maintenance_percent) == (55, 15)


def test_a_value_that_is_none_takes_the_place_of_the_last_good_one() -> None:
    dock = make_dock(battery_percent=93, drone_in_dock=1, emergency_stop_state=0)
    charge = {"drone_charge_state": {"capacity_percent": 32767}}
    say(dock.sn, charge | {"drone_in_dock": 2, "emergency_stop_state": 3})
    device = stored(dock.sn)
    assert (device.battery_percent, device.drone_in_dock) == (32767, 2)
    assert device.emergency_stop_state == 3


def test_properties_that_name_a_method_are_read_like_any() -> None:
    dock = make_dock()
    topic = f"thing/product/{dock.sn}/osd"
    pipeline.process([received(topic, envelope({"mode_code": 4}, "osd"), qos=0)])
    assert stored(dock.sn).mode_code == 4


def test_one_wrong_key_does_not_cost_the_others() -> None:
    dock = make_dock()
    say(dock.sn, {"mode_code": "much", "drone_in_dock": 0, "storage": [], "cover": {"x": 1}})
    device = stored(dock.sn)
    assert (device.mode_code, device.drone_in_dock) == (0, 0)


def test_one_wrong_key_inside_an_object_does_not_cost_its_others() -> None:
    dock = make_dock()
    say(
        dock.sn, {"sub_device": {"device_sn": "A1", "device_paired": {}, "device_online_status": 1}}
    )
    device = stored(dock.sn)
    assert (device.sub_device_sn, device.sub_device_online) == ("A1", 1)
    assert device.sub_device_paired is None


def test_firmware_is_found_on_either_topic() -> None:
    dock = make_dock()
    say(dock.sn, {"firmware_version": NEW}, "osd")
    assert stored(dock.sn).firmware_version == NEW
    say(dock.sn, {"firmware_version": "14.03.0915"}, "state")
    assert stored(dock.sn).firmware_number == 14030915


def test_each_firmware_key_counts_by_itself() -> None:
    dock = make_dock()
    say(dock.sn, {"compatible_status": 1}, "state")
    say(dock.sn, {"firmware_upgrade_status": True}, "state")
    device = stored(dock.sn)
    assert (device.firmware_version, device.compatible_status) == (OLD, 1)
    assert device.firmware_upgrade_status == 1


def test_an_empty_version_keeps_the_last_known_one() -> None:
    dock = make_dock()
    say(dock.sn, {"firmware_version": ""}, "state")
    assert stored(dock.sn).firmware_version == OLD


def test_a_version_in_an_unknown_form_is_kept_and_never_compared() -> None:
    dock = make_dock()
    say(dock.sn, {"firmware_version": "factory"}, "state")
    device = stored(dock.sn)
    assert (device.firmware_version, device.firmware_number) == ("factory", 0)


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    dock = make_dock()
    say(dock.sn, {"firmware_version": NEW}, "state", seconds_ago=1)
    say(dock.sn, {"firmware_version": OLD}, "state", seconds_ago=5)
    assert stored(dock.sn).firmware_version == NEW


def test_within_one_batch_the_newest_report_wins() -> None:
    dock, now = make_dock(), int(timezone.now().timestamp() * 1000)
    topic = f"thing/product/{dock.sn}/state"
    newer = envelope({"firmware_version": NEW}, timestamp=now)
    older = envelope({"firmware_version": OLD}, timestamp=now - 500)
    pipeline.process([received(topic, newer), received(topic, older)])
    assert stored(dock.sn).firmware_version == NEW


@pytest.mark.parametrize("timestamp", ["253402300799000", -5, 0, 2**62, True, "soon", None])
def test_a_clock_that_cannot_be_believed_does_not_stop_later_reports(timestamp: Any) -> None:
    dock = make_dock()
    message = envelope({"firmware_version": "14.03.0915"}, timestamp=timestamp)
    pipeline.process([received(f"thing/product/{dock.sn}/state", message)])
    say(dock.sn, {"firmware_version": NEW}, "state")
    assert stored(dock.sn).firmware_version == NEW


def test_a_timestamp_as_text_is_read() -> None:
    dock = make_dock()
    at = timezone.now() - dt.timedelta(seconds=20)
    message = envelope({"firmware_version": NEW}, timestamp=str(int(at.timestamp() * 1000)))
    pipeline.process([received(f"thing/product/{dock.sn}/state", message)])
    reported = stored(dock.sn).firmware_reported_at
    assert reported
    assert abs(reported - at) < dt.timedelta(milliseconds=2)


def test_the_gateway_in_the_payload_is_not_believed() -> None:
    dock, victim = make_dock(), make_dock()
    say(dock.sn, {"mode_code": 4}, gateway=victim.sn)
    assert (stored(dock.sn).mode_code, stored(victim.sn).mode_code) == (4, 0)


def test_a_change_of_an_aircraft_wakes_what_waits_for_its_dock() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    say(aircraft.sn, {"mode_code": 5})
    changed = stored(dock.sn).changed_at
    assert changed
    assert timezone.now() - changed < dt.timedelta(seconds=5)


def test_what_did_not_change_is_not_written(django_assert_num_queries: Any) -> None:
    dock = make_dock()
    message = received(f"thing/product/{dock.sn}/osd", envelope({"mode_code": 0}))
    with django_assert_num_queries(4):  # a savepoint, the devices, tasks in flight, its release
        pipeline.process([message])


@pytest.mark.parametrize("number", [2, 200])
def test_a_batch_takes_as_many_queries_for_many_devices_as_for_few(
    number: int, django_assert_max_num_queries: Any
) -> None:
    docks = [make_device(sn=f"D{number}X{i}", organization=None) for i in range(number)]
    batch = [
        received(f"thing/product/{dock.sn}/osd", envelope({"mode_code": 4, "drone_in_dock": 1}))
        for dock in docks
    ]
    with django_assert_max_num_queries(6):
        pipeline.process(batch)
    assert Device.objects.filter(mode_code=4).count() == number


# Presence.


def test_a_silent_device_goes_offline() -> None:
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=61))
    telemetry.mark_silent(timezone.now())
    assert stored(dock.sn).presence == Device.Presence.OFFLINE


def test_a_device_that_was_just_heard_stays_online() -> None:
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=55))
    telemetry.mark_silent(timezone.now())
    assert stored(dock.sn).is_online


def test_the_silence_that_counts_is_a_setting(settings: Settings) -> None:
    settings.OFFLINE_AFTER = 120
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(seconds=61))
    telemetry.mark_silent(timezone.now())
    assert stored(dock.sn).is_online


def test_a_silent_aircraft_of_a_dock_that_is_online_is_off_and_not_lost() -> None:
    aircraft = make_aircraft(make_dock(), last_seen_at=timezone.now() - dt.timedelta(minutes=5))
    telemetry.mark_silent(timezone.now())
    assert stored(aircraft.sn).presence == Device.Presence.OFF


def test_a_device_that_speaks_again_is_online_and_has_to_settle() -> None:
    dock = make_dock(presence="offline", online_since=None)
    say(dock.sn, {"mode_code": 0})
    device = stored(dock.sn)
    assert device.is_online
    assert device.online_since


def test_a_device_that_was_silent_unnoticed_starts_anew_too() -> None:
    """As after a stop of all processes: nobody has marked it as offline."""
    silent = timezone.now() - dt.timedelta(seconds=61)
    dock = make_dock(last_seen_at=silent, online_since=silent)
    say(dock.sn, {"mode_code": 0})
    device = stored(dock.sn)
    assert device.is_online
    assert device.online_since
    assert device.online_since > silent
    assert (device.mode_code, device.drone_in_dock, device.battery_percent) == (0, None, None)


def test_whoever_notices_that_nobody_marked_the_silent_ones_marks_them_all() -> None:
    silent = timezone.now() - dt.timedelta(seconds=61)
    returned, gone = (make_dock(last_seen_at=silent) for _ in range(2))
    say(returned.sn, {"mode_code": 0})
    assert stored(returned.sn).is_online
    assert stored(gone.sn).presence == Device.Presence.OFFLINE


def test_after_a_jump_of_the_clock_nobody_is_taken_for_silent() -> None:
    docks = [make_dock() for _ in range(2)]
    say(docks[0].sn, {"mode_code": 0})
    with time_machine.travel(timezone.now() + dt.timedelta(hours=1), tick=True):
        say(docks[0].sn, {"mode_code": 0})
    assert stored(docks[0].sn).drone_in_dock == 1
    assert stored(docks[1].sn).is_online


def test_a_message_that_was_kept_by_the_broker_says_nothing_about_now() -> None:
    dock = make_dock(presence="offline", compatible_seen_at=timezone.now())
    say(dock.sn, {"compatible_status": 1}, "state", seconds_ago=600)
    device = stored(dock.sn)
    assert (device.is_online, device.compatible_status) == (False, 0)


def test_a_dock_whose_clock_is_slow_is_online_as_long_as_it_sends_osd() -> None:
    dock = make_dock(presence="offline", last_seen_at=None)
    say(dock.sn, {"mode_code": 0}, "osd", seconds_ago=600)
    assert stored(dock.sn).is_online


def test_last_seen_is_not_written_with_each_message() -> None:
    seen = timezone.now() - dt.timedelta(seconds=5)
    dock = make_dock(last_seen_at=seen)
    say(dock.sn, {"mode_code": 0})
    assert stored(dock.sn).last_seen_at == seen


def test_no_index_holds_what_devices_say_each_few_seconds() -> None:
    """PostgreSQL leaves the indexes of a row alone only if none of their columns has changed."""
    constant = {"model_id", "firmware_number", "compatible_status", "presence", "sn", "callsign"}
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, Device._meta.db_table)
    indexed = {column for one in found.values() if one["index"] for column in one["columns"]}
    assert indexed - {None} <= constant | {"id", "gateway_id", "organization_id", "site_id"}


def test_a_key_that_no_document_names_is_logged_once_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    dock = make_dock()
    for _ in range(2):
        say(dock.sn, {"mode_code": 4, "rainfall": 0, "uom_real_name_state": {}})
    assert stored(dock.sn).mode_code == 4
    assert caplog.text.count("unknown key 'uom_real_name_state' in osd") == 1
    assert "rainfall" not in caplog.text


def test_facts_that_the_broker_kept_do_not_overwrite_what_holds_now() -> None:
    dock = make_dock(mode_code=4)
    say(dock.sn, {"mode_code": 0}, "state", seconds_ago=3600)
    assert stored(dock.sn).mode_code == 4


def test_what_a_silent_device_said_about_its_state_is_forgotten() -> None:
    dock = make_dock(last_seen_at=timezone.now() - dt.timedelta(minutes=2))
    telemetry.mark_silent(timezone.now())
    device = stored(dock.sn)
    assert (device.mode_code, device.drone_in_dock, device.battery_percent) == (None, None, None)
    assert device.firmware_version == OLD


def test_what_a_killed_bridge_gets_again_does_not_undo_what_another_one_took_in() -> None:
    dock = make_dock(NEW, firmware_seen_at=timezone.now() - dt.timedelta(minutes=8))
    say(dock.sn, {"firmware_version": OLD}, "state", seconds_ago=1200, is_again=True)
    assert stored(dock.sn).firmware_version == NEW


def test_an_old_version_that_hung_in_a_bridge_does_not_undo_what_another_one_took_in() -> None:
    said, seen = (timezone.now() - dt.timedelta(minutes=minutes) for minutes in (10, 5))
    dock = make_dock(NEW, firmware_reported_at=seen, firmware_seen_at=seen)
    message = envelope({"firmware_version": OLD}, timestamp=int(said.timestamp() * 1000))
    topic = f"thing/product/{dock.sn}/state"
    pipeline.process([received(topic, message, received_at=said)])
    assert stored(dock.sn).firmware_version == NEW
    pipeline.process([received(topic, message)])  # just now, from a clock that was set back
    assert stored(dock.sn).firmware_version == OLD


def test_a_clock_that_stepped_back_does_not_hide_a_new_version() -> None:
    dock = make_dock(firmware_seen_at=timezone.now() - dt.timedelta(minutes=5))
    say(dock.sn, {"firmware_version": NEW}, "state", seconds_ago=3 * 3600)
    assert stored(dock.sn).firmware_version == NEW


def osd_of_another_bridge(sn: str, data: dict[str, Any], seconds_ago: float) -> None:
    """It arrived so long ago and is brought in only now."""
    at = timezone.now() - dt.timedelta(seconds=seconds_ago)
    message = envelope(data, timestamp=int(at.timestamp() * 1000))
    pipeline.process([received(f"thing/product/{sn}/osd", message, qos=0, received_at=at)])


@pytest.mark.parametrize("seconds", [20, 50, 300])
def test_what_a_bridge_that_hung_brings_in_late_does_not_undo_what_another_one_took_in(
    seconds: float,
) -> None:
    dock = make_dock(mode_code=4, last_seen_at=timezone.now())
    osd_of_another_bridge(dock.sn, {"mode_code": 0}, seconds)
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seconds", [3, 9])
def test_what_hung_for_seconds_does_not_undo_what_another_bridge_took_in_since(
    seconds: float,
) -> None:
    """The other one would not put it right for a while: it knows that the dock says so."""
    dock = make_dock(mode_code=0, last_seen_at=timezone.now() - dt.timedelta(seconds=seconds))
    say(dock.sn, {"mode_code": 4})
    osd_of_another_bridge(dock.sn, {"mode_code": 0}, seconds)
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("group", ["", "fleet"])
def test_of_bridges_that_share_a_group_none_undoes_what_another_took_in_a_moment_ago(
    settings: Settings, group: str
) -> None:
    """One bridge alone takes all in as it comes, so there what was brought in before was said before."""
    settings.MQTT_SHARED_GROUP = group
    dock = make_dock(mode_code=0, last_seen_at=timezone.now())
    say(dock.sn, {"mode_code": 4})
    osd_of_another_bridge(dock.sn, {"mode_code": 0}, 1)
    assert stored(dock.sn).mode_code == (4 if group else 0)


@pytest.mark.django_db(transaction=True)
def test_a_bridge_that_lags_behind_takes_in_what_changes() -> None:
    dock = make_dock(mode_code=0, changed_at=timezone.now() - dt.timedelta(seconds=9))
    osd_of_another_bridge(dock.sn, {"mode_code": 4}, 8)
    assert stored(dock.sn).mode_code == 4


def test_what_is_brought_in_late_counts_where_the_device_was_not_heard_since() -> None:
    dock = make_dock(mode_code=0, last_seen_at=timezone.now() - dt.timedelta(seconds=25))
    osd_of_another_bridge(dock.sn, {"mode_code": 4}, 20)
    assert stored(dock.sn).mode_code == 4


def test_what_is_brought_in_after_a_minute_says_nothing_about_now() -> None:
    """As after an outage of the database, before which the device was marked as offline."""
    long_ago = timezone.now() - dt.timedelta(seconds=90)
    dock = make_dock(mode_code=None, last_seen_at=long_ago, presence="offline")
    osd_of_another_bridge(dock.sn, {"mode_code": 0}, 80)
    assert stored(dock.sn).mode_code is None


def test_between_two_bridges_seconds_do_not_matter() -> None:
    dock = make_dock(mode_code=4, last_seen_at=timezone.now())
    osd_of_another_bridge(dock.sn, {"mode_code": 0}, 2)
    assert stored(dock.sn).mode_code == 0


# What repeats itself.


def osd(sn: str, data: dict[str, Any], seconds: float = 0) -> int:
    """Brings in an osd that comes in so many seconds; tells how many queries that cost."""
    at = timezone.now() + dt.timedelta(seconds=seconds)
    message = envelope(data, timestamp=int(at.timestamp() * 1000))
    with CaptureQueriesContext(connection) as queries:
        pipeline.process([received(f"thing/product/{sn}/osd", message, received_at=at)])
    return len(queries)


@pytest.mark.django_db(transaction=True)
def test_an_osd_that_says_the_same_again_is_not_looked_at() -> None:
    dock = make_dock()
    assert osd(dock.sn, {"mode_code": 4}) > 0
    assert osd(dock.sn, {"mode_code": 4}, 2) == 0


@pytest.mark.django_db(transaction=True)
def test_all_that_a_device_says_is_compared_anew_together() -> None:
    dock = make_dock()
    groups: list[dict[str, Any]] = [{"mode_code": 4}, {"storage": {"total": 100, "used": 10}}]
    for seconds, group in enumerate(groups):
        osd(dock.sn, group, seconds)
    first, second = telemetry.compared[dock.sn]
    assert first.until == second.until
    assert osd(dock.sn, groups[0], 10.1) > 0
    assert osd(dock.sn, groups[1], 10.1) > 0
    assert osd(dock.sn, groups[1], 12) == 0


@pytest.mark.django_db(transaction=True)
def test_of_more_devices_than_there_is_room_for_those_looked_at_longest_ago_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "_MOST_COMPARED", 2)
    first, second, third = (make_dock().sn for _ in range(3))
    for sn in (first, second):
        osd(sn, {"mode_code": 4})
    osd(first, {"mode_code": 0})
    osd(third, {"mode_code": 4})
    assert list(telemetry.compared) == [first, third]


@pytest.mark.django_db(transaction=True)
def test_who_always_says_the_same_was_seen_ten_seconds_ago_at_most() -> None:
    """Or with its next osd, two seconds later: how long it is silent before it is offline hangs on it."""
    dock = make_dock()
    for seconds in range(0, 120, 2):
        osd(dock.sn, {"mode_code": 4}, seconds)
        seen = stored(dock.sn).last_seen_at
        assert seen
        assert timezone.now() + dt.timedelta(seconds=seconds - 12) < seen


@pytest.mark.django_db(transaction=True)
def test_what_others_wrote_meanwhile_is_put_right_within_ten_seconds() -> None:
    dock = make_dock()
    osd(dock.sn, {"mode_code": 4})
    Device.objects.update(mode_code=0)
    osd(dock.sn, {"mode_code": 4}, 10.1)
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
def test_a_value_that_comes_and_goes_is_followed_each_time() -> None:
    dock = make_dock()
    for mode in (4, 0, 4, 0):
        osd(dock.sn, {"mode_code": mode})
        assert stored(dock.sn).mode_code == mode


@pytest.mark.django_db(transaction=True)
def test_a_change_of_one_group_leaves_the_others_known() -> None:
    dock = make_dock()
    groups = {"mode_code": 4}, {"storage": {"total": 100, "used": 10}}
    for group in groups:
        osd(dock.sn, group)
    osd(dock.sn, {"storage": {"total": 100, "used": 11}})
    assert osd(dock.sn, groups[0]) == 0
    assert osd(dock.sn, groups[1]) > 0


@pytest.mark.django_db(transaction=True)
def test_after_a_start_the_first_osd_counts_though_it_says_the_same() -> None:
    dock = make_dock()
    osd(dock.sn, {"mode_code": 4})
    message = envelope({"type": 2, "sub_type": 0, "sub_devices": []}, "update_topo")
    pipeline.process([received(f"sys/product/{dock.sn}/status", message)])
    assert stored(dock.sn).mode_code is None
    osd(dock.sn, {"mode_code": 4})
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
def test_what_was_not_committed_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    dock = make_dock()

    def refuse(messages: Any) -> tuple[()]:
        raise DataError("refused")

    with routes.more(monkeypatch) as also:
        also(refuse)
        osd(dock.sn, {"mode_code": 4})
    assert stored(dock.sn).mode_code == 0
    osd(dock.sn, {"mode_code": 4})
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
def test_after_our_clock_was_set_back_what_a_device_repeats_is_compared_anew_once() -> None:
    dock = make_dock()
    groups: list[dict[str, Any]] = [{"mode_code": 4}, {"storage": {"total": 100, "used": 10}}]
    for group in groups:
        osd(dock.sn, group)
    Device.objects.update(mode_code=None)  # as when it is taken for silent
    with time_machine.travel(timezone.now() - dt.timedelta(hours=1), tick=True):
        assert all(osd(dock.sn, group) > 0 for group in groups)
        assert all(osd(dock.sn, group, 1) == 0 for group in groups)
    assert stored(dock.sn).mode_code == 4


@pytest.mark.django_db(transaction=True)
def test_two_that_bring_in_states_do_not_wait_for_each_others_docks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change of an aircraft is noted in its dock, which may speak in the other half of the batch."""
    docks = [make_dock(sn=sn) for sn in ("DOCK1", "DOCK2")]
    for dock, sn in zip(docks, ("AIR1", "AIR2"), strict=True):
        make_aircraft(dock, sn=sn)
    has_locked, may_write, update = threading.Event(), threading.Event(), bulk.update
    writers: list[int] = []

    def wait_first(*rows: Any) -> None:
        writers.append(threading.get_ident())
        has_locked.set()
        may_write.wait()
        update(*rows)

    monkeypatch.setattr(bulk, "update", wait_first)

    def bring_in(*sns: str) -> None:
        topics = [f"thing/product/{sn}/state" for sn in sns]
        try:
            pipeline.process([received(t, envelope({"firmware_version": NEW})) for t in topics])
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as halves:
        one = halves.submit(bring_in, "DOCK1", "AIR2")
        has_locked.wait()
        other = halves.submit(bring_in, "DOCK2", "AIR1")
        try:
            eventually(lambda: someone_waits() or len(writers) > 1, "the other half", 10)
            assert len(writers) == 1
        finally:
            may_write.set()
        one.result()
        other.result()
    assert Device.objects.filter(firmware_version=NEW).count() == 4
