"""What a device needs, what blocks it now, and what excludes it for good."""

import datetime as dt
import itertools
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device, DeviceModel
from mqtt_bridge.models import BridgeSession
from ota import needs
from ota.models import FirmwarePackage, ForeignUpgrade
from ota.needs import Answer, Need
from ota.states import TaskStatus
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_device,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_task,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def listening() -> None:
    make_listening()


def assess(device: Device, **options: Any) -> Answer:
    return needs.assess(Device.objects.filter(pk=device.pk), timezone.now(), **options)[0]


def codes(device: Device) -> list[str]:
    return [reason.code for reason in assess(device).blockers]


@pytest.mark.parametrize(
    ("version", "compatible", "need"),
    [
        (OLD, 0, Need.REGULAR),
        (OLD, 1, Need.REGULAR),
        (NEW, 1, Need.CONSISTENCY),
        (NEW, 0, Need.NONE),
        (NEW, None, Need.NONE),
        ("10.01.9999", 0, Need.DOWNGRADE),
        ("", 0, Need.UNKNOWN),
        ("rubbish", 0, Need.UNKNOWN),
    ],
)
def test_the_decision_table(version: str, compatible: int | None, need: Need) -> None:
    make_package(NEW)
    assert assess(make_dock(version, compatible_status=compatible)).need == need


def test_the_newest_available_package_of_the_model_is_the_target() -> None:
    make_package("10.01.1700")
    newest = make_package(NEW)
    make_package("17.01.0001", state=FirmwarePackage.State.DRAFT)
    make_package("18.01.0001", models=("3-3-0",))
    assert assess(make_dock(OLD)).package == newest


def test_a_version_may_be_asked_for() -> None:
    older = make_package("10.01.1700")
    make_package(NEW)
    assert assess(make_dock(OLD), to=10011700).package == older


def test_a_device_that_can_be_upgraded_has_no_blocker_and_no_exclusion() -> None:
    make_package()
    answer = assess(make_dock())
    assert (answer.blockers, answer.exclusion) == ([], None)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"presence": "offline"}, "offline"),
        ({"online_since": timezone.now()}, "settling"),
        ({"mode_code": None}, "mode_unknown"),
        ({"mode_code": 4}, "busy"),
        ({"mode_code": 5}, "busy"),
        ({"mode_code": 99}, "busy"),
        ({"flighttask_step_code": 1}, "flight_task"),
        ({"emergency_stop_state": 1}, "emergency_stop"),
        ({"link_workmode": 1}, "4g_enhanced"),
        ({"storage_total": 100, "storage_used": 100}, "storage_full"),
    ],
)
def test_each_condition_of_the_dock_blocks(fields: dict[str, Any], code: str) -> None:
    make_package()
    if "online_since" in fields:
        fields = {"online_since": timezone.now()}
    assert codes(make_dock(**fields)) == [code]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"drone_in_dock": None}, "aircraft_unknown"),
        ({"drone_in_dock": 0}, "aircraft_out"),
        ({"sub_device_sn": "1581FOTHER"}, "other_aircraft"),
        ({"sub_device_paired": 0}, "not_paired"),
        ({"battery_percent": 20}, "low_battery"),
    ],
)
def test_each_condition_of_the_aircraft_blocks_it_and_not_its_dock(
    fields: dict[str, Any], code: str
) -> None:
    make_package()
    dock = make_dock(**fields)
    assert codes(make_aircraft(dock, presence="off")) == [code]
    assert codes(dock) == []


@pytest.mark.parametrize(
    ("dock_says", "aircraft_says", "code"),
    [({}, {"mode_code": 5}, "aircraft_busy"), ({"drone_in_dock": 0}, {}, "aircraft_out")],
)
def test_a_dock_waits_for_its_aircraft_that_is_in_use_though_only_the_dock_is_upgraded(
    dock_says: dict[str, Any], aircraft_says: dict[str, Any], code: str
) -> None:
    make_package()
    dock = make_dock(**dock_says)
    make_aircraft(dock, **aircraft_says)
    assert codes(dock) == [code]


def test_the_lower_of_two_reported_batteries_counts() -> None:
    make_package()
    dock = make_dock(battery_percent=93)
    assert codes(make_aircraft(dock, battery_percent=5)) == ["low_battery"]


def test_an_aircraft_that_another_dock_is_upgrading_is_left_out() -> None:
    make_package()
    dock = make_dock()
    aircraft = make_aircraft(dock)
    make_task(dock, aircraft=aircraft, status=TaskStatus.IN_PROGRESS)
    other = make_dock(organization=dock.organization)
    Device.objects.filter(pk=aircraft.pk).update(gateway=other)
    assert excluded(Device.objects.get(pk=aircraft.pk)) == "open_task"
    assert excluded(other) is None


def test_the_emptiest_battery_that_the_dock_tells_decides() -> None:
    dock = make_dock(battery_percent=93, maintenance_percent=12)
    assert codes(make_aircraft(dock)) == ["low_battery"]


@pytest.mark.parametrize("percent", [32767, -1, 101])
def test_a_battery_that_cannot_be_read_is_unknown(percent: int) -> None:
    dock = make_dock(battery_percent=percent, maintenance_percent=None)
    assert codes(make_aircraft(dock)) == ["battery_unknown"]


def test_an_unknown_battery_blocks() -> None:
    make_package()
    assert codes(make_aircraft(make_dock(battery_percent=None))) == ["battery_unknown"]


@pytest.mark.parametrize("mode", [0, 14])
def test_an_aircraft_that_stands_by_may_be_upgraded(mode: int) -> None:
    make_package()
    assert codes(make_aircraft(make_dock(), mode_code=mode)) == []


def test_an_aircraft_that_flies_or_does_what_nobody_knows_blocks() -> None:
    make_package()
    assert codes(make_aircraft(make_dock(), mode_code=5)) == ["aircraft_busy"]
    assert codes(make_aircraft(make_dock(), mode_code=77)) == ["aircraft_busy"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [(5, "the aircraft is flying a route"), (77, "the aircraft is in mode 77")],
)
def test_what_an_aircraft_does_is_told_in_words(mode: int, words: str) -> None:
    make_package()
    (reason,) = assess(make_aircraft(make_dock(), mode_code=mode)).blockers
    assert reason.text == words


def test_an_aircraft_that_sleeps_in_the_dock_may_be_upgraded() -> None:
    make_package()
    assert codes(make_aircraft(make_dock(), presence="off", mode_code=5)) == []


def test_a_foreign_upgrade_blocks_until_it_ends() -> None:
    make_package()
    dock, now = make_dock(), timezone.now()
    foreign = ForeignUpgrade.objects.create(gateway=dock, first_seen_at=now, last_seen_at=now)
    assert codes(dock) == ["foreign_upgrade"]
    ForeignUpgrade.objects.filter(pk=foreign.pk).update(finished_at=now)
    assert codes(dock) == []


def test_nothing_goes_while_nobody_listens() -> None:
    make_package()
    later = timezone.now() + dt.timedelta(minutes=1)
    dock = make_dock(last_seen_at=later)
    answer = needs.assess(Device.objects.filter(pk=dock.pk), later)[0]
    assert [reason.code for reason in answer.blockers] == ["bridge_down"]


def test_nothing_goes_while_the_bridge_brings_in_what_waited_in_the_broker() -> None:
    make_package()
    dock = make_dock()
    behind = make_listening()
    ago = dt.timedelta(minutes=10)
    BridgeSession.objects.filter(pk=behind.pk).update(
        connected_since=timezone.now() - ago, behind_since=timezone.now() - ago
    )
    (reason,) = assess(dock).blockers
    assert (reason.code, "takes in what waited" in reason.text) == ("bridge_down", True)
    BridgeSession.objects.update(behind_since=timezone.now() - dt.timedelta(seconds=12))
    assert codes(dock) == []


def test_nothing_goes_while_a_bridge_that_has_only_just_come_back_takes_in_what_waited() -> None:
    """How old that is nobody knows: the time of the bridge begins when it is back."""
    make_package()
    dock = make_dock()
    back = timezone.now() - dt.timedelta(seconds=15)
    bridge = make_listening(connected_since=back, behind_since=back)
    assert codes(dock) == ["bridge_down"]
    bridge.behind_since = None
    bridge.save()
    assert codes(dock) == []


def test_nothing_goes_while_one_of_several_bridges_is_away(settings: Settings) -> None:
    settings.MQTT_SHARED_GROUP = "fleet"
    make_package()
    dock = make_dock()
    other = make_listening(connected_since=None)
    assert codes(dock) == ["bridge_down"]
    (reason,) = assess(dock).blockers
    assert other.client_id in reason.text
    other.delete()
    assert codes(dock) == []


def excluded(device: Device, **options: Any) -> str | None:
    reason = assess(device, **options).exclusion
    return reason.code if reason else None


def test_each_exclusion_names_its_reason() -> None:
    make_package()
    assert excluded(make_dock(NEW)) == "up_to_date"
    assert excluded(make_dock("")) == "version_unknown"
    assert excluded(make_dock("17.01.0001")) == "downgrade"
    assert excluded(make_dock(organization=None)) == "unclaimed"
    assert excluded(make_device("3-3-0")) == "no_package"
    assert excluded(make_device("0-91-1")) == "not_behind_dock"
    assert excluded(make_device("2-144-0")) == "not_behind_dock"
    assert excluded(make_device("9-9-9")) == "unknown_model"


def test_a_device_whose_model_was_never_told_is_left_out() -> None:
    dock = make_dock()
    Device.objects.update(model=None)
    assert excluded(dock) == "unknown_model"


def test_an_aircraft_behind_a_remote_controller_is_not_upgraded_from_here() -> None:
    make_package()
    controller = make_device("2-144-0")
    assert excluded(make_aircraft(controller)) == "not_behind_dock"


def test_an_aircraft_of_another_organization_than_its_dock_is_left_alone() -> None:
    make_package()
    assert (
        excluded(make_aircraft(make_dock(), organization=make_organization()))
        == "other_organization"
    )


def test_a_dock_that_another_one_brought_into_an_organization_is_left_out_with_its_aircraft() -> (
    None
):
    make_package()
    dock = make_dock(bound_at=None)
    assert excluded(dock) == excluded(make_aircraft(dock)) == "unclaimed"


def test_an_aircraft_that_came_with_its_dock_is_upgraded() -> None:
    make_package()
    assert excluded(make_aircraft(make_dock(), bound_at=None)) is None


def test_a_dock_with_an_open_task_is_left_out_with_its_aircraft() -> None:
    make_package()
    dock = make_dock()
    aircraft = make_aircraft(dock)
    make_task(dock)
    assert excluded(dock) == excluded(aircraft) == "open_task"


def test_a_dock_whose_task_has_ended_is_free_again() -> None:
    make_package()
    dock = make_dock()
    make_task(dock, status=TaskStatus.FAILED)
    assert excluded(dock) is None


def test_a_downgrade_goes_only_if_it_is_asked_for() -> None:
    make_package()
    dock = make_dock("10.01.9999")
    assert excluded(dock) == "downgrade"
    assert excluded(dock, allow_downgrade=True) is None


def needs_first(device: Device, **options: Any) -> str | None:
    """The text of the exclusion, if that is it."""
    reason = assess(device, **options).exclusion
    return reason.text if reason and reason.code == "needs_first" else None


def test_a_device_below_the_minimum_of_its_package_is_left_out_and_told_what_it_needs_first() -> (
    None
):
    make_package(OLD)
    make_package(NEW, minimum_version=OLD)
    answer = assess(make_dock("10.01.1000"))
    text = f"needs {OLD} first: choose it as the target version"
    assert answer.exclusion == ("needs_first", text)
    assert (answer.need, answer.blockers) == (Need.REGULAR, [answer.exclusion])


@pytest.mark.parametrize("version", [OLD, "10.01.1608"])
def test_a_device_from_the_minimum_on_may_go(version: str) -> None:
    make_package(NEW, minimum_version=OLD)
    answer = assess(make_dock(version))
    assert (answer.blockers, answer.exclusion) == ([], None)


def test_a_minimum_that_the_library_has_not_is_to_be_added() -> None:
    make_package(NEW, minimum_version=OLD)
    make_package(OLD, state=FirmwarePackage.State.DRAFT)
    make_package(OLD, models=("3-3-0",))
    expected = f"needs {OLD} first: add its package to the library"
    assert needs_first(make_dock("10.01.1000")) == expected


def test_a_version_between_the_minimum_and_the_target_will_do_too() -> None:
    make_package(NEW, minimum_version=OLD)
    make_package("10.01.2000")
    make_package("10.01.1700")
    expected = f"needs {OLD} first: choose 10.01.1700, which will do too, as the target version"
    assert needs_first(make_dock("10.01.1000")) == expected


def test_of_several_steps_each_target_names_its_own() -> None:
    make_package("10.01.1200")
    make_package("10.01.2000", minimum_version="10.01.1200")
    make_package("10.01.3000", minimum_version="10.01.2000")
    dock = make_dock("10.01.1000")
    choose = "first: choose it as the target version"
    assert needs_first(dock) == f"needs 10.01.2000 {choose}"
    assert needs_first(dock, to=10012000) == f"needs 10.01.1200 {choose}"
    assert excluded(dock, to=10011200) is None


def test_a_consistency_upgrade_and_a_downgrade_have_nothing_to_pass_through() -> None:
    make_package(NEW, minimum_version=OLD)
    assert excluded(make_dock(NEW, compatible_status=1)) is None
    assert excluded(make_dock("10.01.9999"), allow_downgrade=True) is None


def test_while_the_step_is_on_its_way_the_open_upgrade_is_the_reason() -> None:
    make_package(OLD)
    make_package(NEW, minimum_version=OLD)
    dock = make_dock("10.01.1000")
    make_task(dock, version=OLD)
    assert excluded(dock) == "open_task"


@pytest.mark.parametrize("number", [3, 60])
def test_the_answer_for_many_takes_as_many_queries_as_for_few(
    number: int, django_assert_num_queries: Any
) -> None:
    make_package(OLD)
    make_package(NEW, minimum_version=OLD)
    organization = make_organization()
    for _ in range(number):
        make_aircraft(make_dock("10.01.1000", organization=organization))
    with django_assert_num_queries(9):
        needs.assess(Device.objects.all(), timezone.now())


def test_devices_are_found_by_need_as_the_table_decides() -> None:
    make_package()
    old, same, asking = make_dock(OLD), make_dock(NEW), make_dock(NEW, compatible_status=1)
    everything = Device.objects.all()
    assert list(needs.having(everything, Need.REGULAR)) == [old]
    assert list(needs.having(everything, Need.NONE)) == [same]
    assert list(needs.having(everything, Need.CONSISTENCY)) == [asking]
    assert not needs.having(everything, Need.DOWNGRADE)


@pytest.mark.parametrize("wanted", Need)
def test_the_search_by_need_and_the_assessment_agree_on_each_combination(wanted: Need) -> None:
    make_package(NEW, ("3-2-0",))
    make_package(OLD, ("3-1-0",))
    for model, version, compatible in itertools.product(
        ("3-1-0", "3-2-0", "3-3-0"), ("", "no version", OLD, NEW), (None, 0, 1)
    ):
        make_device(model, version, compatible_status=compatible)
    Device.objects.filter(firmware_version="").update(firmware_number=None)
    Device.objects.filter(pk=make_device().pk).update(model=None)
    everything = Device.objects.all()
    assessed = {a.device.pk for a in needs.assess(everything, timezone.now()) if a.need is wanted}
    assert set(needs.having(everything, wanted).values_list("pk", flat=True)) == assessed


def test_a_device_that_reported_nothing_is_found_as_unknown() -> None:
    make_package()
    device = make_dock("", firmware_number=None, compatible_status=None)
    assert list(needs.having(Device.objects.all(), Need.UNKNOWN)) == [device]


def test_a_model_that_nobody_knows_gets_the_kind_of_its_domain() -> None:
    ids = DeviceModel.objects.ids_by_key(["3-9-9", "0-9-9"])
    kinds = dict(DeviceModel.objects.filter(pk__in=ids.values()).values_list("key", "kind"))
    assert kinds == {"3-9-9": "dock", "0-9-9": "aircraft"}


@pytest.mark.parametrize("few", [0, needs.NAMED])
def test_many_devices_get_the_same_answers_as_few(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "NAMED", few)
    make_package()
    busy, opened, free = make_dock(), make_dock(), make_dock()
    aircraft = make_aircraft(opened)
    make_aircraft(busy, mode_code=5)
    make_task(opened, aircraft=aircraft)
    found = needs.assess([busy, opened, aircraft, free], timezone.now())
    excluded = [answer.exclusion.code if answer.exclusion else "" for answer in found]
    assert excluded == ["", "open_task", "open_task", ""]
    blocked = ["aircraft_busy" in [reason.code for reason in answer.blockers] for answer in found]
    assert blocked == [True, False, False, False]
