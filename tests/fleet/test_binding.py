"""A dock's way into an organization."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings

from fleet import binding
from fleet.models import Device, Organization
from mqtt_bridge import pipeline, router
from tests.fleet.locks import someone_waits
from tests.make import envelope, make_aircraft, make_dock, make_organization, received
from tests.processes import eventually

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


def ask(sn: str, method: str, data: Any = None) -> Any:
    message = envelope(data, method)
    (reply,) = pipeline.process([received(f"thing/product/{sn}/requests", message)])
    assert (reply.tid, reply.bid, reply.method) == (message["tid"], message["bid"], method)
    return reply.data


def bind(
    sender: str,
    organization: Organization,
    *sns: str,
    code: str = "",
    model_key: str | None = None,
    callsign: str = "",
) -> dict[str, int]:
    devices = [
        {
            "sn": sn,
            "device_binding_code": code or organization.binding_code,
            "organization_id": organization.identifier,
            "device_callsign": callsign or f"Callsign {sn}",
            "device_model_key": _key(sender, sn) if model_key is None else model_key,
        }
        for sn in sns
    ]
    data = ask(sender, "airport_organization_bind", {"bind_devices": devices})
    assert data["result"] == 0
    return {info["sn"]: info["err_code"] for info in data["output"]["err_infos"]}


def _key(sender: str, sn: str) -> str:
    return "3-2-0" if sn == sender else "0-91-1"


def test_the_licence_stands_directly_in_the_data(settings: Settings) -> None:
    settings.DJI_APP_ID, settings.DJI_APP_LICENSE = "123456", "BASE64=="
    data = ask("DOCK1", "config", {"config_type": "json", "config_scope": "product"})
    assert (data["app_id"], data["app_license"], data["ntp_server_port"]) == (
        "123456",
        "BASE64==",
        123,
    )
    assert "result" not in data
    assert isinstance(data["app_id"], str)


def test_a_missing_licence_is_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DJI_APP_LICENSE = ""
    assert ask("DOCK1", "config")["app_license"] == ""
    assert "DJI_APP_LICENSE are not set" in caplog.text


def test_unknown_devices_are_not_bound() -> None:
    data = ask("DOCK1", "airport_bind_status", {"devices": [{"sn": "AIR1"}, {"sn": "DOCK1"}]})
    statuses = data["output"]["bind_status"]
    assert [s["sn"] for s in statuses] == ["AIR1", "DOCK1"]
    assert not any(s["is_device_bind_organization"] for s in statuses)


def test_bound_devices_are_told_their_organization() -> None:
    dock = make_dock(callsign="North")
    data = ask(dock.sn, "airport_bind_status", {"devices": [{"sn": dock.sn}]})
    assert data["output"]["bind_status"] == [
        {
            "sn": dock.sn,
            "is_device_bind_organization": True,
            "organization_id": dock.organization.identifier,  # type: ignore[union-attr]
            "organization_name": dock.organization.name,  # type: ignore[union-attr]
            "device_callsign": "North",
        }
    ]


def test_a_dock_is_told_nothing_about_the_dock_of_somebody_else() -> None:
    other = make_dock()
    data = ask("STRANGER", "airport_bind_status", {"devices": [{"sn": other.sn}]})
    assert data["output"]["bind_status"][0]["is_device_bind_organization"] is False


def test_the_right_code_gets_the_organizations_name() -> None:
    organization = make_organization()
    asked = {
        "device_binding_code": f" {organization.binding_code} ",
        "organization_id": organization.identifier,
    }
    data = ask("DOCK1", "airport_organization_get", asked)
    assert data == {"result": 0, "output": {"organization_name": organization.name}}


@pytest.mark.parametrize(("code", "result"), [("", 200001), ("WRONG", 210230)])
def test_a_wrong_code_gets_an_error_with_a_text(code: str, result: int) -> None:
    organization = make_organization()
    asked = {"device_binding_code": code, "organization_id": organization.identifier}
    data = ask("DOCK1", "airport_organization_get", asked)
    assert data["result"] == result
    assert organization.name not in data["output"]


def test_a_dock_and_its_aircraft_are_bound() -> None:
    organization = make_organization()
    assert bind("DOCK1", organization, "DOCK1", "AIR1") == {"DOCK1": 0, "AIR1": 0}
    dock = Device.objects.get(sn="DOCK1")
    assert (dock.organization, dock.callsign, dock.is_dock) == (
        organization,
        "Callsign DOCK1",
        True,
    )
    assert Device.objects.get(sn="AIR1").organization == organization


def test_a_callsign_in_two_lines_is_kept_in_one() -> None:
    bind("DOCK1", make_organization(), "DOCK1", callsign=" Roof\r\nNorth\t")
    assert Device.objects.get(sn="DOCK1").callsign == "Roof  North"


def test_a_wrong_code_binds_nothing() -> None:
    assert bind("DOCK1", make_organization(), "DOCK1", code="WRONG") == {"DOCK1": 210231}
    assert Device.objects.get(sn="DOCK1").organization is None


def test_a_device_of_another_organization_is_refused() -> None:
    dock = make_dock()
    assert bind(dock.sn, make_organization(), dock.sn) == {dock.sn: 210232}


def test_a_dock_cannot_bind_another_dock_or_its_aircraft() -> None:
    organization = make_organization()
    victim = make_dock(organization=None)
    aircraft = make_aircraft(victim)
    codes = bind("DOCK1", organization, victim.sn, aircraft.sn)
    assert codes == {victim.sn: 210231, aircraft.sn: 210231}
    assert Device.objects.get(sn=victim.sn).organization is None


def test_what_a_dock_brings_must_not_call_itself_a_dock() -> None:
    organization = make_organization()
    device = {
        "sn": "DOCK9",
        "device_binding_code": organization.binding_code,
        "organization_id": organization.identifier,
        "device_model_key": "3-2-0",
    }
    data = ask("DOCK1", "airport_organization_bind", {"bind_devices": [device]})
    assert data["output"]["err_infos"] == [{"sn": "DOCK9", "err_code": 210231}]


@pytest.mark.parametrize("key", ["", "7-1-1", f"0-{'9' * 50}-0"])
def test_what_a_dock_brings_has_to_be_an_aircraft(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    organization = make_organization()
    assert bind("DOCK1", organization, "NEW1", model_key=key) == {"NEW1": 210231}
    assert Device.objects.get(sn="NEW1").organization is None
    assert "dock DOCK1 may not bind NEW1: it does not say that it is an aircraft" in caplog.text


def test_a_known_aircraft_is_bound_without_its_model_key() -> None:
    dock = make_dock(organization=None)
    aircraft = make_aircraft(dock)
    codes = bind(dock.sn, make_organization(), dock.sn, aircraft.sn, model_key="")
    assert codes == {dock.sn: 0, aircraft.sn: 0}


def test_what_a_dock_brings_is_not_bound_by_itself() -> None:
    bind("DOCK1", make_organization(), "DOCK1", "AIR1")
    assert Device.objects.get(sn="DOCK1").is_bound
    assert not Device.objects.get(sn="AIR1").is_bound


def test_a_dock_is_not_told_that_it_is_bound_by_what_another_one_says_of_it() -> None:
    bind("DOCK1", make_organization(), "DOCK2")
    data = ask("DOCK2", "airport_bind_status", {"devices": [{"sn": "DOCK2"}]})
    (told,) = data["output"]["bind_status"]
    assert (told["is_device_bind_organization"], told["organization_id"]) == (False, "")


@pytest.mark.parametrize(("key", "kind"), [("3-2-0", "dock"), ("", "unknown")])
def test_a_docks_own_code_counts_more_than_what_another_one_says_of_it(
    key: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    other, organization = make_organization(), make_organization()
    assert bind("DOCK1", other, "DOCK2") == {"DOCK2": 0}
    assert bind("DOCK2", organization, "DOCK2", model_key=key) == {"DOCK2": 0}
    dock = Device.objects.get(sn="DOCK2")
    assert (dock.organization, dock.kind, dock.is_bound) == (organization, kind, True)
    assert f"DOCK2 is taken out of {other}" in caplog.text


def test_a_dock_that_another_one_of_its_organization_brought_is_bound_with_its_own_code() -> None:
    organization = make_organization()
    assert bind("DOCK1", organization, "DOCK2") == {"DOCK2": 0}
    assert bind("DOCK2", organization, "DOCK2") == {"DOCK2": 0}
    dock = Device.objects.get(sn="DOCK2")
    assert (dock.organization, dock.kind, dock.is_bound) == (organization, "dock", True)


def test_a_docks_own_code_brings_its_aircraft_too() -> None:
    """As it stands in the database where the dock was brought in before that was looked at."""
    dock, organization = make_dock(bound_at=None), make_organization()
    aircraft = make_aircraft(dock, bound_at=None)
    assert bind(dock.sn, organization, dock.sn, aircraft.sn) == {dock.sn: 0, aircraft.sn: 0}
    assert Device.objects.filter(organization=organization).count() == 2


def test_a_dock_that_binds_itself_is_behind_no_other_one() -> None:
    other, organization = make_dock(organization=None), make_organization()
    Device.objects.create(sn="DOCK2", gateway=other)
    assert bind("DOCK2", organization, "DOCK2") == {"DOCK2": 0}
    data = ask(other.sn, "airport_bind_status", {"devices": [{"sn": "DOCK2"}]})
    assert data["output"]["bind_status"][0]["organization_id"] == ""


def test_a_dock_that_is_bound_already_can_be_bound_to_no_other_organization() -> None:
    dock = make_dock()
    assert bind(dock.sn, make_organization(), dock.sn) == {dock.sn: 210232}
    assert Device.objects.get().organization == dock.organization


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_a_dock_that_starts_while_another_one_binds_it_as_its_aircraft_is_nobodys() -> None:
    organization = make_organization()
    Device.objects.create(sn="DOCK2")

    def bring() -> dict[str, int]:
        try:
            return bind("DOCK1", organization, "DOCK2")
        finally:
            connection.close()

    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    with ThreadPoolExecutor(1) as second:
        with transaction.atomic():
            started = received("sys/product/DOCK2/status", envelope(data, "update_topo"))
            pipeline.process([started])
            brought = second.submit(bring)
            eventually(lambda: brought.done() or someone_waits(), "the other dock", 10)
        assert brought.result() == {"DOCK2": 210231}
    assert Device.objects.get(sn="DOCK2").organization is None


def test_a_dock_that_guesses_codes_is_blocked_for_a_while() -> None:
    organization = make_organization()
    for _ in range(5):
        bind("DOCK1", organization, "DOCK1", code="WRONG")
    assert bind("DOCK1", organization, "DOCK1") == {"DOCK1": 210231}
    Device.objects.update(binding_blocked_until=timezone.now() - dt.timedelta(seconds=1))
    assert bind("DOCK1", organization, "DOCK1") == {"DOCK1": 0}


def test_what_docks_ask_before_take_off_is_answered() -> None:
    assert ask("DOCK1", "flight_areas_get") == {"result": 0, "output": {"files": []}}
    assert ask("DOCK1", "offline_map_get") == {"result": 0}


def test_media_storage_is_declined() -> None:
    assert ask("DOCK1", "storage_config_get", {"module": 0})["result"] != 0


def test_an_unknown_request_is_declined_with_its_method() -> None:
    assert ask("DOCK1", "levitate")["result"] == 1


def test_adopting_a_dock_brings_its_aircraft() -> None:
    dock, organization = make_dock(organization=None), make_organization()
    aircraft = make_aircraft(dock)
    claimed = binding.adopt(Device.objects.filter(pk=dock.pk), organization, timezone.now())
    assert set(claimed) == {dock, aircraft}
    assert Device.objects.filter(organization=organization).count() == 2


def test_what_an_adopted_dock_brings_is_not_put_there_by_itself() -> None:
    dock = make_dock(organization=None)
    aircraft = make_aircraft(dock)
    binding.adopt(Device.objects.filter(pk=dock.pk), make_organization(), timezone.now())
    assert Device.objects.get(pk=dock.pk).bound_at
    assert Device.objects.get(pk=aircraft.pk).bound_at is None


def test_adopting_takes_nothing_from_another_organization() -> None:
    dock = make_dock()
    assert binding.adopt(Device.objects.all(), make_organization(), timezone.now()) == []
    assert Device.objects.get().organization == dock.organization


def test_a_dock_of_another_organization_brings_nothing() -> None:
    owner = make_organization()
    dock = make_dock(organization=owner)
    aircraft = make_aircraft(dock, organization=None)
    chosen = Device.objects.filter(pk=dock.pk)
    assert binding.adopt(chosen, make_organization(), timezone.now()) == []
    assert binding.adopt(chosen, owner, timezone.now()) == [aircraft]


def test_an_endless_list_of_devices_is_answered_and_not_looked_up() -> None:
    devices = [{"sn": f"D{number}"} for number in range(5000)]
    data = ask("DOCK1", "airport_bind_status", {"devices": devices})
    assert data == {"result": 0, "output": {"bind_status": []}}


def test_an_impossible_model_key_does_not_cost_the_answer() -> None:
    organization = make_organization()
    device = {
        "sn": "DOCK1",
        "device_binding_code": organization.binding_code,
        "organization_id": organization.identifier,
        "device_model_key": f"3-{'9' * 50}-0",
    }
    data = ask("DOCK1", "airport_organization_bind", {"bind_devices": [device]})
    assert data["output"]["err_infos"] == [{"sn": "DOCK1", "err_code": 0}]
