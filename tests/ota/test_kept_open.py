"""Keeping a rollout open, at the doors: the launch form, the rollout's page, the commands."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from fleet.models import Device, Organization, Site
from fleet.selection import Selection
from ota.admin import criteria
from ota.models import Criterion, OrganizationPolicy, Rollout, UpgradeTask
from tests.calls import Run, refusal
from tests.make import (
    NEW,
    make_dock,
    make_listening,
    make_model,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)
from tests.people import context, staff, text, told

pytestmark = pytest.mark.django_db

PREVIEW = "/admin/fleet/device/upgrade/"


@pytest.fixture
def operator() -> Client:
    make_listening()
    make_package()
    return staff("view_device", "view_rollout", "view_upgradetask", "upgrade_devices")


@pytest.fixture
def acme() -> Organization:
    organization = make_organization(identifier="acme", name="Acme")
    make_dock(organization=organization)
    return organization


def of_list(organization: Organization, **choices: Any) -> dict[str, Any]:
    query = urlencode({"organization__id__exact": organization.pk, "o": "1"})
    return {"query": query, "limit_in_flight": 5, "policy_shown": 1, **_POLICY} | choices


_POLICY = {"gate_first": 100, "gate": 95, "soak_minutes": 0, "expected_minutes": 45} | {
    "failed_after": 10,
    "jitter_seconds": 0,
}


# By what a list was chosen


def test_a_lists_filters_are_what_later_devices_have_to_meet(acme: Organization) -> None:
    roof = Site.objects.create(organization=acme, name="Roof")
    model = make_model("3-2-0")
    query = (
        f"organization__id__exact={acme.pk}&site__id__exact={roof.pk}&model__id__exact={model.pk}"
    )
    (found,) = criteria.of(Selection(query=f"{query}&need=regular&p=2&o=-1&claimed=yes"))
    assert (found.organization, found.site, found.model) == (acme, roof, model)
    assert (found.need, found.kind) == ("regular", "")


def test_all_devices_are_a_list_too() -> None:
    (found,) = criteria.of(Selection(query=""))
    assert str(found) == "every device"


@pytest.mark.parametrize(
    "query",
    [
        *("presence__exact=online", "q=7CTDK", "firmware_number=10011607", "need=none"),
        *("claimed=no", "site__id__exact=999", "model__kind__exact=car", "whatever=1"),
        "organization__id__exact=x",
    ],
)
def test_a_list_that_says_something_else_cannot_stay_open(query: str) -> None:
    assert criteria.of(Selection(query=query)) == []


# The console


def test_the_preview_tells_who_joins_and_with_what(operator: Client, acme: Organization) -> None:
    page = operator.get(PREVIEW, of_list(acme, keeps_open="on", deadline_at="2099-01-01T00:00"))
    shown = text(page)
    assert "It stays open for every device of Acme" in shown
    assert f"DJI Dock 2: {NEW}" in shown
    assert "until 2099-01-01 00:00 UTC or somebody closes it" in shown
    assert "It stays open" not in text(operator.get(PREVIEW, of_list(acme)))


def test_keeping_picked_devices_open_is_refused_at_the_choice(
    operator: Client, acme: Organization
) -> None:
    picked = {"pks": acme.devices.get().pk, "keeps_open": "on", "limit_in_flight": 5}
    form = context(operator, f"{PREVIEW}?{urlencode(picked)}")["form"]
    assert "Only a whole list" in form.errors["keeps_open"][0]


def test_a_policy_that_keeps_open_is_no_hindrance_for_picked_devices(
    operator: Client, acme: Organization
) -> None:
    OrganizationPolicy.objects.create(organization=acme, keeps_open=True)
    form = context(operator, f"{PREVIEW}?pks={acme.devices.get().pk}")["form"]
    assert not form.errors
    assert not form["keeps_open"].value()
    by_list = context(operator, f"{PREVIEW}?query=organization__id__exact={acme.pk}")["form"]
    assert by_list["keeps_open"].value()


def test_a_list_is_started_and_kept_open(operator: Client, acme: Organization) -> None:
    seen = {"seen": "to=&with_aircraft=False&allow_downgrade=False", "do": "confirm"}
    operator.post(PREVIEW, of_list(acme, keeps_open="on") | seen)
    rollout = Rollout.objects.get()
    assert rollout.keeps_open
    assert rollout.criteria.get().organization == acme
    assert [str(offer) for offer in rollout.offers.filter(model__key="3-2-0")] == [
        f"DJI Dock 2: {NEW}"
    ]


def previewed(client: Client, choices: dict[str, Any]) -> dict[str, Any]:
    """What the button of a preview sends beside the choices."""
    shown = context(client, f"{PREVIEW}?{urlencode(choices)}")
    return {"seen": shown["form"].decision(), "plan": shown["digest"], "do": "confirm"}


def test_another_version_for_who_joins_than_the_preview_named_is_shown_first(
    operator: Client, acme: Organization
) -> None:
    kept = of_list(acme, keeps_open="on")
    seen = previewed(operator, kept)
    make_package("66.01.0000", models=("3-3-0",))  # of which no dock is there yet
    reply = operator.post(PREVIEW, kept | seen)
    assert "Please look at it once more." in told(reply)
    assert not Rollout.objects.exists()
    assert "66.01.0000" in text(operator.get(reply.headers["Location"]))


def test_who_joins_is_shown_before_it_is_kept_open(operator: Client, acme: Organization) -> None:
    seen = previewed(operator, of_list(acme))
    operator.post(PREVIEW, of_list(acme, keeps_open="on") | seen)
    assert not Rollout.objects.exists()
    operator.post(
        PREVIEW,
        of_list(acme, keeps_open="on") | previewed(operator, of_list(acme, keeps_open="on")),
    )
    assert Rollout.objects.get().keeps_open


def test_a_fixed_list_starts_whatever_the_library_got_for_others(
    operator: Client, acme: Organization
) -> None:
    seen = previewed(operator, of_list(acme))
    make_package("66.01.0000", models=("3-3-0",))
    operator.post(PREVIEW, of_list(acme) | seen)
    assert not Rollout.objects.get().keeps_open


def kept_open(acme: Organization) -> Rollout:
    rollout = make_rollout(keeps_open=True)
    Criterion.objects.create(rollout=rollout, organization=acme)
    make_task(acme.devices.get(), rollout=rollout)
    return rollout


def page_of(rollout: Rollout) -> str:
    return reverse("admin:ota_rollout_change", args=[rollout.pk])


def test_the_page_says_that_it_stays_open_and_closes_it(
    operator: Client, acme: Organization
) -> None:
    rollout = kept_open(acme)
    page = text(operator.get(page_of(rollout)))
    assert "It stays open: devices that come to match join its last wave" in page
    assert "every device of Acme" in page
    pressed = operator.post(reverse("admin:ota_rollout_close", args=[rollout.pk]))
    assert "Closed: nobody joins any more." in told(pressed)
    rollout.refresh_from_db()
    assert not rollout.keeps_open
    assert "It stays open" not in text(operator.get(page_of(rollout)))
    again = operator.post(reverse("admin:ota_rollout_close", args=[rollout.pk]))
    assert "It does not stay open." in told(again)


def test_a_list_that_was_fixed_is_kept_open_on_its_page(
    operator: Client, acme: Organization
) -> None:
    rollout = kept_open(acme)
    Rollout.objects.update(keeps_open=False)
    assert "Keep it open" in text(operator.get(page_of(rollout)))
    pressed = operator.post(reverse("admin:ota_rollout_keep-open", args=[rollout.pk]))
    assert "It stays open: devices that come to match" in told(pressed)
    rollout.refresh_from_db()
    assert rollout.keeps_open
    rollout.criteria.all().delete()
    Rollout.objects.update(keeps_open=False)
    assert "Keep it open" not in text(operator.get(page_of(rollout)))


def test_the_page_counts_docks_that_another_upgrade_has(
    operator: Client, acme: Organization
) -> None:
    rollout = kept_open(acme)
    dock = make_dock(organization=acme)
    package = make_task(dock).targets.get().package
    rollout.offers.create(
        model=make_model("3-2-0"), version=package.version, number=package.version_number
    )
    page = text(operator.get(page_of(rollout)))
    assert "1 dock that matches is in another upgrade now and joins after it" in page
    UpgradeTask.objects.filter(gateway=dock).update(status="failed", finished_at=timezone.now())
    page = text(operator.get(page_of(rollout)))
    assert "1 dock that matches joins once somebody has retried or dismissed its last" in page


# The commands


@pytest.mark.usefixtures("redis_server")
def test_a_model_is_kept_open_from_the_terminal(run: Run, acme: Organization) -> None:
    make_listening()
    make_package()
    answer = run.answer("start_upgrade", "--model", "3-2-0", "--keep-open")
    assert answer["stays_open"]
    assert answer["joining_get"] == [{"model_key": "3-2-0", "version": NEW}]
    rollout = Rollout.objects.get()
    assert str(rollout.criteria.get()) == "DJI Dock 2 devices"
    closing = ["rollout", str(rollout.pk), "close"]
    assert run.answer(*closing)["changed"]
    assert not run.answer(*closing)["changed"]
    assert [event.kind for event in rollout.events.all()][-1] == "closed"
    changed = run.answer("rollout", str(rollout.pk), "change", "--keep-open")
    assert changed["changes"] == ["keep open: no -> yes"]


def test_named_devices_are_not_kept_open_from_the_terminal(acme: Organization) -> None:
    make_listening()
    make_package()
    sn = Device.objects.get(organization=acme).sn
    code, message = refusal("start_upgrade", "--sn", sn, "--keep-open")
    assert (code, message[:13]) == (2, "--keep-open: ")
    assert "Only a whole list" in message
