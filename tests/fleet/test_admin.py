"""The console's pages of the fleet: who sees and changes what, and adopting devices."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from fleet import admin
from fleet.models import Device, Organization, Site
from tests.make import make_aircraft, make_dock, make_listening, make_organization, make_package
from tests.people import context, log_in, text, told

pytestmark = pytest.mark.django_db

LIST = "/admin/fleet/device/"
ADOPT = "/admin/fleet/device/adopt/"


def page(device: Device) -> str:
    return reverse("admin:fleet_device_change", args=[device.pk])


@pytest.fixture
def viewer(client: Client) -> Client:
    log_in(client, "Viewers")
    return client


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "Operators")
    return client


@pytest.fixture
def administrator(client: Client) -> Client:
    log_in(client, "Administrators")
    return client


def count_queries(client: Client, url: str, django_assert_max_num_queries: Any) -> int:
    with django_assert_max_num_queries(40) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


def test_the_list_costs_the_same_for_few_and_for_many_devices(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    make_package()
    for _ in range(26):
        make_aircraft(make_dock())
    operator.get(LIST)  # the versions to choose from are remembered
    few = count_queries(operator, LIST, django_assert_max_num_queries)
    for _ in range(26):
        make_aircraft(make_dock(site=None))
    assert count_queries(operator, LIST, django_assert_max_num_queries) == few
    assert count_queries(operator, f"{LIST}?all=", django_assert_max_num_queries) <= few


@pytest.mark.parametrize(
    ("said", "number"), [("7CTD1", 1), (" 7CTD1 ", 1), ("7CTD", 2), ("7ctd1", 2)]
)
def test_a_whole_serial_number_finds_its_device_alone(
    viewer: Client, said: str, number: int
) -> None:
    make_dock(sn="7CTD1")
    make_dock(sn="7CTD12")
    shown = context(viewer, f"{LIST}?{urlencode({'q': said})}")["cl"]
    assert len(shown.result_list) == number


def test_the_list_tells_what_a_device_needs_and_what_blocks_it(viewer: Client) -> None:
    make_listening()
    make_package("10.01.3205")
    make_dock("10.01.1607", callsign="Roof", mode_code=4)
    shown = text(viewer.get(LIST))
    assert "Roof" in shown
    assert "to 10.01.3205" in shown
    assert "the dock is working" in shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("need=regular", "old"),
        ("need=any", "old"),
        ("need=none", "new"),
        ("claimed=no", "stray"),
        ("claimed=yes&need=none", "new"),
        ("presence__exact=offline", "stray"),
        ("model__kind__exact=dock&q=ol", "old"),
        ("firmware_number=10013205", "new"),
        ("firmware_number=none", "stray"),
    ],
)
def test_the_list_is_filtered(viewer: Client, query: str, found: str) -> None:
    make_package("10.01.3205")
    make_dock("10.01.1607", sn="old")
    make_dock("10.01.3205", sn="new")
    Device.objects.create(sn="stray")
    changelist = context(viewer, f"{LIST}?{query}")["cl"]
    assert [device.sn for device in changelist.result_list] == [found]


@pytest.mark.parametrize("query", ["need=", "firmware_number=", "claimed=", "_facets=1"])
def test_a_filter_that_says_nothing_shows_all(viewer: Client, query: str) -> None:
    make_dock(sn="one")
    assert "one" in text(viewer.get(f"{LIST}?{query}"))


WRONG = ["need=nonsense", "firmware_number=x", "claimed=maybe"]


@pytest.mark.parametrize("query", WRONG)
def test_a_filter_with_a_value_that_does_not_exist_is_refused(viewer: Client, query: str) -> None:
    make_dock(sn="one")
    response = viewer.get(f"{LIST}?{query}", follow=True)
    assert response.redirect_chain == [(f"{LIST}?e=1", 302)]
    assert "shows everything now" in text(response)


@pytest.mark.parametrize("query", WRONG)
@pytest.mark.parametrize("page", ["upgrade", "adopt"])
def test_a_list_with_a_filter_that_does_not_exist_chooses_nothing(
    administrator: Client, page: str, query: str
) -> None:
    make_dock(sn="one")
    response = administrator.get(f"{LIST}{page}/", {"query": query})
    assert (response.status_code, response["Location"]) == (302, LIST)


@pytest.mark.parametrize(
    "query",
    [
        *("site__isnull=True", "organization__isnull=True", "presence__isnull=True"),
        *("model__kind__isnull=True", "presence__exact=away", "model__isnull=True"),
    ],
)
def test_a_filter_for_what_no_device_has_finds_none(viewer: Client, query: str) -> None:
    site = Site.objects.create(name="Roof", organization=make_organization())
    make_dock(site=site, organization=site.organization)
    assert not context(viewer, f"{LIST}?{query}")["cl"].result_count


def test_a_filter_for_what_all_devices_have_finds_all(viewer: Client) -> None:
    make_dock()
    assert context(viewer, f"{LIST}?model__isnull=False")["cl"].result_count == 1


def test_a_viewer_is_offered_no_action(viewer: Client) -> None:
    make_dock()
    assert context(viewer, LIST)["action_form"] is None


def test_an_operator_is_offered_the_upgrade_only(operator: Client) -> None:
    make_dock()
    form = context(operator, LIST)["action_form"]
    assert [name for name, _ in form.fields["action"].choices] == ["", "upgrade"]


def test_a_devices_page_tells_its_facts_in_words(viewer: Client) -> None:
    dock = make_dock(mode_code=2, drone_in_dock=0, link_workmode=1, compatible_status=1)
    shown = text(viewer.get(page(dock)))
    for words in ("debugged remotely", "outside", "4G enhanced", "a module differs"):
        assert words in shown


def test_a_number_that_no_document_names_is_shown_as_it_is(viewer: Client) -> None:
    assert "number 77" in text(viewer.get(page(make_dock(mode_code=77))))


def test_an_operator_names_a_device_and_chooses_its_site(operator: Client) -> None:
    dock = make_dock()
    assert dock.organization
    site = Site.objects.create(organization=dock.organization, name="Roof")
    operator.post(page(dock), {"callsign": "Roof 1", "site": site.pk})
    dock.refresh_from_db()
    assert (dock.callsign, dock.site) == ("Roof 1", site)


def test_a_site_of_another_organization_is_refused(operator: Client) -> None:
    dock, foreign = make_dock(), Site.objects.create(organization=make_organization(), name="Far")
    operator.post(page(dock), {"callsign": "", "site": foreign.pk})
    dock.refresh_from_db()
    assert dock.site is None


def test_what_a_device_reports_is_not_changed_by_a_form(operator: Client) -> None:
    dock = make_dock("10.01.1607")
    operator.post(page(dock), {"callsign": "x", "firmware_version": "99.99.9999", "sn": "other"})
    dock.refresh_from_db()
    assert (dock.firmware_version, dock.callsign) == ("10.01.1607", "x")


def test_saving_a_device_keeps_what_it_reported_meanwhile(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = make_dock(mode_code=0)
    save = Device.save

    def report_first(device: Device, **kwargs: Any) -> None:
        Device.objects.filter(pk=device.pk).update(mode_code=4)
        save(device, **kwargs)

    monkeypatch.setattr(Device, "save", report_first)
    operator.post(page(dock), {"callsign": "x"})
    assert Device.objects.values_list("mode_code", "callsign").get(pk=dock.pk) == (4, "x")


def test_a_viewer_changes_nothing(viewer: Client) -> None:
    dock = make_dock()
    assert viewer.post(page(dock), {"callsign": "x"}).status_code == 403


def test_nobody_adds_a_device(administrator: Client) -> None:
    assert administrator.get(f"{LIST}add/").status_code == 403


# Adopting


def test_an_unclaimed_dock_is_adopted_with_its_aircraft(administrator: Client) -> None:
    dock, home = make_dock(organization=None), make_organization(name="Home")
    aircraft = make_aircraft(dock)
    reply = administrator.post(ADOPT, {"pks": str(dock.pk), "organization": home.pk})
    aircraft.refresh_from_db()
    assert aircraft.organization == home
    assert "2 devices went into Home." in told(reply)
    assert LogEntry.objects.filter(change_message="Adopted into Home.").count() == 2


def test_a_claimed_device_stays_where_it_is(administrator: Client) -> None:
    dock = make_dock()
    shown = text(administrator.get(f"{ADOPT}?pks={dock.pk}"))
    administrator.post(ADOPT, {"pks": str(dock.pk), "organization": make_organization().pk})
    assert "there is nothing to adopt" in shown
    assert Device.objects.get(pk=dock.pk).organization == dock.organization


def test_of_many_devices_to_adopt_some_are_listed_and_the_others_counted(
    administrator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "LISTED", 2)
    docks = [make_dock(organization=None) for _ in range(5)]
    pks = ",".join(str(dock.pk) for dock in docks)
    shown = text(administrator.get(f"{ADOPT}?pks={pks}"))
    assert (sum(dock.sn in shown for dock in docks), "and 3 more" in shown) == (2, True)
    shown = text(administrator.get(f"{ADOPT}?pks={docks[0].pk}"))
    assert "more</li>" not in shown


def test_all_devices_of_a_filtered_list_are_adopted(administrator: Client) -> None:
    home = make_organization()
    for _ in range(3):
        make_dock(organization=None)
    form = {"action": "adopt", "select_across": "1", "_selected_action": "1"}
    reply = administrator.post(f"{LIST}?claimed=no", form)
    assert reply.headers["Location"] == f"{ADOPT}?query=claimed%3Dno"
    administrator.post(ADOPT, {"query": "claimed=no", "organization": home.pk})
    assert home.devices.count() == 3


def test_a_device_that_came_after_the_page_is_not_adopted_with_those_that_it_showed(
    administrator: Client,
) -> None:
    shown, home = make_dock(organization=None), make_organization(name="Home")
    runs = context(administrator, f"{ADOPT}?query=claimed%3Dno")["runs"]
    make_dock(organization=None)
    form = {"query": "claimed=no", "organization": home.pk, "runs": runs}
    assert "1 device went into Home." in told(administrator.post(ADOPT, form))
    assert home.devices.get() == shown


def test_more_devices_are_adopted_than_a_form_takes_keys(
    administrator: Client, settings: Settings
) -> None:
    home = make_organization()
    Device.objects.bulk_create(Device(sn=f"D{one:04}") for one in range(1000))
    Device.objects.filter(sn__endswith="7").update(organization=make_organization())
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000  # bytes, of 2.5 MB
    runs = context(administrator, f"{ADOPT}?query=claimed%3Dno")["runs"]
    form = {"query": "claimed=no", "organization": home.pk, "runs": runs}
    assert administrator.post(ADOPT, form).status_code == 302
    assert Device.objects.filter(organization=home).count() == 900


def test_a_forged_range_of_devices_ends_with_the_newest(administrator: Client) -> None:
    home, dock = make_organization(), make_dock(organization=None)
    form = {"query": "", "organization": home.pk, "runs": f"1-{'9' * 18},1-{'9' * 18}"}
    assert administrator.post(ADOPT, form).status_code == 302
    assert list(Device.objects.filter(organization=home)) == [dock]


def test_a_device_that_left_the_list_after_the_page_is_adopted_all_the_same(
    administrator: Client,
) -> None:
    dock, home = make_dock(organization=None), make_organization(name="Home")
    query = "claimed=no&presence__exact=online"
    runs = context(administrator, f"{ADOPT}?{urlencode({'query': query})}")["runs"]
    Device.objects.update(presence=Device.Presence.OFFLINE)
    form = {"query": query, "organization": home.pk, "runs": runs}
    assert "1 device went into Home." in told(administrator.post(ADOPT, form))
    assert home.devices.get() == dock


def test_a_device_that_somebody_else_adopted_after_the_page_stays_there(
    administrator: Client,
) -> None:
    dock, home = make_dock(organization=None), make_organization(name="Home")
    runs = context(administrator, f"{ADOPT}?pks={dock.pk}")["runs"]
    there = make_organization(name="There")
    Device.objects.update(organization=there)
    form = {"pks": str(dock.pk), "organization": home.pk, "runs": f"{runs},nonsense,"}
    assert "0 devices went into Home." in told(administrator.post(ADOPT, form))
    assert there.devices.get() == dock


def test_what_was_adopted_by_two_presses_goes_in_once(administrator: Client) -> None:
    dock, home = make_dock(organization=None), make_organization(name="Home")
    runs = context(administrator, f"{ADOPT}?pks={dock.pk}")["runs"]
    form = {"pks": str(dock.pk), "organization": home.pk, "runs": runs}
    assert "1 device went into Home." in told(administrator.post(ADOPT, form))
    assert "0 devices went into Home." in told(administrator.post(ADOPT, form))


def test_the_page_of_what_is_adopted_sends_what_it_showed(administrator: Client) -> None:
    dock = make_dock(organization=None)
    shown = text(administrator.get(f"{ADOPT}?pks={dock.pk}"))
    assert f'<input type="hidden" name="runs" value="{dock.pk}">' in shown


def test_an_operator_may_not_adopt(operator: Client) -> None:
    reply = operator.post(ADOPT, {"pks": str(make_dock(organization=None).pk)})
    assert reply.status_code == 403


def test_a_query_that_fits_no_list_leads_back_to_it(administrator: Client) -> None:
    reply = administrator.get(f"{ADOPT}?query=site__id__exact%3Dnonsense")
    assert reply.headers["Location"] == LIST


# Organizations and sites


def org_page(organization: Organization) -> str:
    return reverse("admin:fleet_organization_change", args=[organization.pk])


def test_who_may_change_an_organization_sees_its_binding_code(administrator: Client) -> None:
    assert "SECRETCODE" in text(
        administrator.get(org_page(make_organization(binding_code="SECRETCODE")))
    )


def test_a_viewer_does_not_see_the_binding_code(viewer: Client) -> None:
    assert "SECRETCODE" not in text(
        viewer.get(org_page(make_organization(binding_code="SECRETCODE")))
    )


def test_a_binding_code_is_made_anew(administrator: Client) -> None:
    organization = make_organization(binding_code="OLD")
    url = reverse("admin:fleet_organization_regenerate_code", args=[organization.pk])
    administrator.post(url, {"_form_submitted": "on"})
    organization.refresh_from_db()
    assert organization.binding_code != "OLD"


def test_looking_at_the_dialog_makes_no_new_code(administrator: Client) -> None:
    organization = make_organization(binding_code="OLD")
    administrator.get(reverse("admin:fleet_organization_regenerate_code", args=[organization.pk]))
    organization.refresh_from_db()
    assert organization.binding_code == "OLD"


def test_an_operator_may_not_make_a_new_code(operator: Client) -> None:
    url = reverse("admin:fleet_organization_regenerate_code", args=[make_organization().pk])
    assert operator.post(url, {"_form_submitted": "on"}).status_code == 403


@pytest.mark.parametrize(("zone", "count"), [("Europe/Zurich", 1), ("Mars/Base", 0), ("", 0)])
def test_a_site_has_a_time_zone_that_exists(administrator: Client, zone: str, count: int) -> None:
    form = {"organization": make_organization().pk, "name": "Roof", "time_zone": zone}
    administrator.post("/admin/fleet/site/add/", form)
    assert Site.objects.filter(time_zone=zone).count() == count


def test_a_site_stays_in_its_organization_while_devices_of_that_stand_there(
    administrator: Client,
) -> None:
    dock = make_dock()
    assert dock.organization
    site = Site.objects.create(organization=dock.organization, name="Roof")
    Device.objects.filter(pk=dock.pk).update(site=site)
    form = {"organization": make_organization().pk, "name": "Roof", "time_zone": "UTC"}
    reply = administrator.post(f"/admin/fleet/site/{site.pk}/change/", form)
    assert reply.status_code == 200
    assert "1 device of another organization stands here" in text(reply)
    assert Site.objects.get().organization == dock.organization


def test_an_empty_site_moves_to_another_organization(administrator: Client) -> None:
    site, other = Site.objects.create(organization=make_organization()), make_organization()
    form = {"organization": other.pk, "name": "Roof", "time_zone": "UTC"}
    administrator.post(f"/admin/fleet/site/{site.pk}/change/", form)
    assert Site.objects.get().organization == other


@pytest.mark.parametrize("name", ["organization", "site", "devicemodel", "device"])
def test_a_viewer_reads_the_lists(viewer: Client, name: str) -> None:
    Site.objects.create(organization=make_organization(), name="Roof")
    assert viewer.get(f"/admin/fleet/{name}/").status_code == 200


@pytest.mark.parametrize("place", ["device", "site"])
def test_a_filter_that_nobody_uses_says_all(administrator: Client, place: str) -> None:
    make_dock(site=make_organization().sites.create(name="Roof"))
    shown = text(administrator.get(f"/admin/fleet/{place}/"))
    selects = re.findall(r"<select[^>]*unfold-filter-autocomplete[^>]*>", shown)
    assert selects
    assert all('data-placeholder="All"' in found for found in selects)


@pytest.mark.parametrize(
    ("page", "field"),
    [
        ("organization/add/", "name"),
        ("site/add/", "name"),
        ("devicemodel/add/", "name"),
        ("device/{dock}/change/", "callsign"),
    ],
)
def test_a_name_in_two_lines_is_refused(client: Client, page: str, field: str) -> None:
    log_in(client, "Administrators")
    dock = make_dock()
    answer = client.post(f"/admin/fleet/{page.format(dock=dock.pk)}", {field: "North\nSouth"})
    errors = (answer.context_data or {})["adminform"].form.errors[field]
    assert errors == ["Write it in one line, without control characters."]
