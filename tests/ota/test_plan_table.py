"""The whole plan of a preview as a table, however long it is."""

import csv
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from fleet.models import Device, Site
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
)
from tests.people import context, log_in, text, told

pytestmark = pytest.mark.django_db

PREVIEW = "/admin/fleet/device/upgrade/"


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "Operators")
    make_listening()
    return client


def ask(client: Client, **choices: Any) -> Any:
    """Looks at the preview of these choices and presses the button for its table."""
    form = {"query": "", "limit_in_flight": 5, "policy_shown": 1} | choices
    shown = context(client, f"{PREVIEW}?{urlencode(form)}")
    return client.post(PREVIEW, form | {"plan": shown["digest"], "do": "csv"})


def table(reply: Any) -> list[dict[str, str]]:
    content = b"".join(reply.streaming_content).decode()
    return list(csv.DictReader(content.splitlines()))


def make_policy(**fields: Any) -> dict[str, Any]:
    """The choices that a form cannot be without."""
    limits = {"gate_first": 100, "gate": 95, "soak_minutes": 0, "failed_after": 10}
    return limits | {"jitter_seconds": 0, "expected_minutes": 45, "max_failed_percent": 20} | fields


def test_the_table_of_a_plan_tells_each_device_its_wave_its_versions_and_what_keeps_it(
    operator: Client,
) -> None:
    make_package()
    organization = make_organization()
    site = Site.objects.create(name="Roof", organization=organization)
    pair = make_dock(sn="D1", callsign="North", organization=organization, site=site)
    aircraft = make_aircraft(pair, sn="A1")
    make_dock(sn="D2", organization=organization, presence=Device.Presence.OFFLINE)
    make_dock(NEW, sn="D3", organization=organization, site=site)
    reply = ask(operator, **make_policy(waves="1, rest"))
    assert reply["Content-Disposition"] == 'attachment; filename="upgrade-plan.csv"'
    rows = {row["device"]: row for row in table(reply)}
    common = {"dock": "D1", "callsign": "North", "site": "Roof", "how": "Regular", "left_out": ""}
    versions = {"from_version": OLD, "to_version": NEW}
    own = {"wave": "1", "waits_for": "", "device": "A1", "model": str(aircraft.model)}
    assert rows["A1"] == common | versions | own
    assert rows["D2"]["wave"] == "2"
    assert rows["D2"]["waits_for"] == "the dock is offline"
    assert (rows["D3"]["wave"], rows["D3"]["to_version"]) == ("", "")
    assert rows["D3"]["left_out"] == f"it has {NEW} already"
    assert (rows["D3"]["dock"], rows["D3"]["site"]) == ("D3", "Roof")


def test_the_table_of_a_plan_has_what_the_page_cuts_off(operator: Client) -> None:
    make_package()
    organization = make_organization()
    for number in range(203):
        make_dock(sn=f"D{number:03}", organization=organization)
    rows = table(ask(operator, **make_policy(waves="1, rest")))
    assert [row["wave"] for row in rows].count("2") == 202
    page = text(operator.get(f"{PREVIEW}?query="))
    assert page.count('value="csv"') == 2  # beside what is cut off, and above the tables


def test_a_plan_that_is_not_the_one_on_the_page_is_shown_anew_instead(operator: Client) -> None:
    make_package()
    make_dock()
    form = {"query": "", "limit_in_flight": 5, "do": "csv"}
    for seen in ({}, {"plan": "other"}):
        reply = operator.post(PREVIEW, form | seen)
        assert reply.status_code == 302
        assert "no table" in told(reply)


def test_a_table_of_choices_that_are_wrong_leads_to_the_page_that_says_so(operator: Client) -> None:
    make_dock()
    reply = operator.post(PREVIEW, {"query": "", "limit_in_flight": 0, "do": "csv"}, follow=True)
    assert "Please correct the choices." in text(reply)


def test_who_may_not_upgrade_gets_no_table_of_a_plan(client: Client) -> None:
    log_in(client, "Viewers")
    assert client.post(PREVIEW, {"query": "", "do": "csv"}).status_code == 403


def test_a_callsign_that_begins_like_a_formula_is_made_harmless_in_a_plan(
    operator: Client,
) -> None:
    make_package()
    make_dock(callsign="=1+1")
    assert table(ask(operator, **make_policy()))[0]["callsign"] == "'=1+1"


def test_a_long_table_of_a_plan_is_sent_in_pieces(operator: Client) -> None:
    make_package()
    organization = make_organization()
    dock = make_dock(NEW, sn="D", organization=organization)
    Device.objects.bulk_create(
        Device(sn=f"D{number}", model=dock.model, organization=organization)
        for number in range(1200)
    )
    pieces = list(ask(operator, **make_policy()).streaming_content)
    assert len(pieces) == 3
    assert sum(piece.count(b"\n") for piece in pieces) == 1202
