"""Addresses of the console that somebody typed, or that lead a step further than they look."""

import re

import pytest
from django.test import Client

from tests.make import make_device, make_dock, make_organization, make_package, make_task
from tests.people import context, log_in, text

pytestmark = pytest.mark.django_db

HUGE = "9" * 20  # more than any database's integer holds
LONG = "9" * 5000  # more digits than Python makes a number of


@pytest.mark.parametrize(
    "address",
    [
        "ota/firmwarepackage/abc/change/",
        f"ota/firmwarepackage/{HUGE}/change/",
        "ota/firmwarepackage/1/nothing/",
        "fleet/device/abc/change/",
        "fleet/device/abc/upgrade/",
        f"fleet/device/{HUGE}/upgrade/",
        f"fleet/device/{HUGE}/change/",
        "ota/rollout/abc/change/",
        f"ota/rollout/{HUGE}/change/",
        f"ota/rollout/{HUGE}/report/",
        f"ota/upgradetask/{HUGE}/change/",
        "ota/upgradetask/abc/change/",
        f"ota/upgradetask/?rollout={HUGE}",
        f"ota/upgradetask/?package={HUGE}",
        "ota/upgradetask/?rollout=²",
        "ota/upgradetask/?package=²",
        f"fleet/device/?firmware_number={HUGE}",
        f"fleet/device/?organization__id__exact={HUGE}",
        f"fleet/device/?rest_of={HUGE}",
        "fleet/device/?rest_of=²",
        f"fleet/device/upgrade/?pks={HUGE}",
        f"fleet/device/upgrade/?query=rest_of%3D{HUGE}",
        f"fleet/device/adopt/?pks={HUGE}",
        f"fleet/site/?organization__id__exact={HUGE}",
        f"ota/notice/settings/?organization={HUGE}",
        f"ota/notice/settings/?organization={LONG}",
    ],
)
def test_an_address_that_leads_nowhere_is_no_fault_of_ours(client: Client, address: str) -> None:
    log_in(client, "Administrators")
    make_task()
    response = client.get(f"/admin/{address}", follow=True)
    assert response.status_code in {200, 404}


@pytest.mark.parametrize("query", ["last_seen_at__year=99999", "last_seen_at__iso_year=99999"])
@pytest.mark.parametrize("page", ["upgrade", "adopt"])
def test_devices_chosen_by_a_filter_that_cannot_be_asked_for_lead_back_to_the_list(
    client: Client, page: str, query: str
) -> None:
    log_in(client, "Administrators")
    make_dock()
    for ask in (client.get, client.post):
        response = ask(f"/admin/fleet/device/{page}/", {"query": query})
        assert (response.status_code, response["Location"]) == (302, "/admin/fleet/device/")
    chosen = client.get(f"/admin/fleet/device/{page}/", {"query": "last_seen_at__year=2026"})
    assert chosen.status_code == 200


@pytest.mark.parametrize("page", ["upgrade", "adopt"])
def test_devices_chosen_by_a_number_that_none_has_are_none(client: Client, page: str) -> None:
    """SQLite refuses the number, PostgreSQL looks for it."""
    log_in(client, "Administrators")
    dock = make_dock()
    query = {"query": f"battery_percent__in=-{HUGE}"}
    response = client.get(f"/admin/fleet/device/{page}/", query, follow=True)
    assert response.status_code == 200
    assert response.redirect_chain or dock.sn not in text(response)


@pytest.mark.parametrize("key", ["abc", "1,abc", "²", HUGE, LONG])
@pytest.mark.parametrize(
    "form",
    [
        "fleet/site/add/?organization={}",
        "fleet/devicemodel/add/?compatible_with={}",
        "ota/webhook/add/?organization={}",
        "ota/organizationpolicy/add/?organization={}",
        "ota/productcode/add/?models={}",
    ],
)
def test_a_form_that_an_address_fills_with_nonsense_comes_without_it(
    client: Client, form: str, key: str
) -> None:
    log_in(client, "Administrators")
    assert client.get(f"/admin/{form.format(key)}").status_code == 200


def test_a_form_is_filled_with_what_an_address_names(client: Client) -> None:
    log_in(client, "Administrators")
    organization = make_organization(name="Acme")
    assert ">Acme<" in text(client.get(f"/admin/fleet/site/add/?organization={organization.pk}"))
    dock = make_dock().model
    assert dock
    codes = text(client.get(f"/admin/ota/productcode/add/?models={dock.pk}"))
    assert f">{dock}<" in codes


@pytest.mark.parametrize("key", ["abc", "999", "²", HUGE, LONG])
@pytest.mark.parametrize(
    "door",
    [
        "fleet/organization/{}/regenerate-code/",
        "ota/firmwarepackage/{}/purge/",
        "ota/firmwarepackage/{}/withdraw/",
        "ota/firmwarepackage/{}/make-available/",
    ],
)
def test_a_dialog_of_what_does_not_exist_is_no_fault_of_ours(
    client: Client, door: str, key: str
) -> None:
    log_in(client, "Administrators")
    response = client.post(f"/admin/{door.format(key)}", {"_form_submitted": "on"})
    assert response.status_code == 404


def test_nobody_guesses_a_binding_code_by_filtering_for_it(client: Client) -> None:
    log_in(client, "Viewers")
    code = make_organization().binding_code
    for lookup in ("binding_code", "binding_code__startswith", "binding_code__gt"):
        response = client.get("/admin/fleet/organization/", {lookup: code[:3]})
        assert response.status_code in {302, 400}


def test_the_dashboards_devices_of_no_known_model_are_those_and_no_others(client: Client) -> None:
    log_in(client, "Viewers")
    make_dock()
    strange = make_device(sn="STRANGE1")
    strange.model = None
    strange.save()
    page = text(client.get("/admin/"))
    (address,) = set(re.findall(r'/admin/fleet/device/\?model__isnull=1(?=")', page))
    listed = context(client, address)["cl"].queryset
    assert [device.sn for device in listed] == ["STRANGE1"]


def test_a_tile_of_the_dashboard_that_counts_none_does_not_say_that_there_never_were_any(
    client: Client,
) -> None:
    log_in(client, "Viewers")
    make_task(status="ok")  # type: ignore[arg-type]
    make_package("14.03.0915")
    page = text(client.get("/admin/ota/upgradetask/", {"status__in": "pending"}))
    assert "Nothing fits" in page
    assert "yet" not in page.partition("Nothing fits")[2].partition("Show all")[0]
