"""A rollout once more, in the console: the launch form with its choices, for the rest of the list."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from fleet.models import Device, Organization
from ota import rollouts
from ota.models import OrganizationPolicy, Rollout
from ota.states import TaskStatus
from tests.make import (
    NEW,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_target,
    make_task,
)
from tests.people import context, staff, text, told

pytestmark = pytest.mark.django_db

PREVIEW = "/admin/fleet/device/upgrade/"
OPERATOR = ("view_rollout", "view_device", "upgrade_devices")


@pytest.fixture
def operator() -> Client:
    make_listening()
    make_package()
    return staff(*OPERATOR)


@pytest.fixture
def acme() -> Organization:
    return make_organization(identifier="acme", name="Acme")


def make_done(acme: Organization, **fields: Any) -> Rollout:
    """A rollout that has proven one dock of an organization."""
    rollout = make_rollout(**{"name": "Autumn"} | fields)
    make_task(make_dock(NEW, organization=acme), rollout=rollout, status=TaskStatus.OK)
    return rollout


def address(rollout: Rollout) -> str:
    return f"{PREVIEW}?query=rest_of%3D{rollout.pk}"


def confirm(client: Client, rollout: Rollout, **choices: Any) -> Any:
    """Presses the button of the preview as it stands."""
    page = context(client, address(rollout))
    form = page["form"]
    shown = {name: form.data[name] for name in form.fields if form.data.get(name)}
    sent = page["chosen"].params() | shown | {"policy_shown": "1", "do": "confirm"}
    sent |= {"seen": form.decision(), "plan": page["digest"]}
    return client.post(PREVIEW, sent | choices)


def test_the_rollouts_page_leads_to_the_launch_form(operator: Client, acme: Organization) -> None:
    rollout = make_done(acme)
    page = text(operator.get(reverse("admin:ota_rollout_change", args=[rollout.pk])))
    assert f'href="{address(rollout)}"' in page


def test_who_may_see_no_devices_gets_no_link_to_them(acme: Organization) -> None:
    client = staff("view_rollout", "upgrade_devices")
    page = text(client.get(reverse("admin:ota_rollout_change", args=[make_done(acme).pk])))
    assert "Clone for the rest" not in page


def test_the_form_begins_with_what_the_rollout_had(operator: Client, acme: Organization) -> None:
    OrganizationPolicy.objects.create(organization=acme, limit_in_flight=2)
    rollout = make_done(acme, limit_in_flight=7, waves="1, rest", max_failed=3)
    rest = make_dock(organization=acme)
    make_package("10.02.0000")  # which came later
    page = context(operator, address(rollout))
    form, preview = page["form"], page["preview"]
    assert [form.data[name] for name in ("to", "name")] == [NEW, "Autumn, the rest"]
    assert [form.data[name] for name in ("limit_in_flight", "waves")] == ["7", "1, rest"]
    assert form.is_unusual()
    ((task, _),) = preview.ready.rows
    assert (task.gateway, task.targets[0].package.version) == (rest, NEW)
    assert Rollout.objects.count() == 1


def test_what_is_chosen_instead_is_kept(operator: Client, acme: Organization) -> None:
    make_package("10.02.0000")
    sent = "&to=&limit_in_flight=4&policy_shown=1"
    form = context(operator, address(make_done(acme)) + sent)["form"]
    assert (form.data["to"], form.data["limit_in_flight"]) == ("", "4")


def test_it_starts_as_it_was_previewed(operator: Client, acme: Organization) -> None:
    rollout = make_done(acme, keeps_open=True)
    rest = make_dock(organization=acme)
    confirm(operator, rollout)
    made = Rollout.objects.exclude(pk=rollout.pk).get()
    assert [task.gateway for task in made.tasks.all()] == [rest]
    assert (made.name, made.target_version, made.keeps_open) == ("Autumn, the rest", NEW, True)
    assert [str(each) for each in made.criteria.all()] == ["DJI Dock 2 devices of Acme"]
    confirm(operator, rollout)
    assert Rollout.objects.count() == 2


def test_what_failed_stays_with_its_rollout_though_the_clone_stays_open(
    operator: Client, acme: Organization
) -> None:
    rollout = make_done(acme, keeps_open=True)
    failed = make_task(make_dock(organization=acme), rollout=rollout, status=TaskStatus.FAILED)
    make_dock(organization=acme)
    told_in_preview = "DJI Dock 2 devices of Acme, but not those that Autumn has tried"
    assert told_in_preview in text(operator.get(address(rollout)))
    confirm(operator, rollout)
    made = Rollout.objects.exclude(pk=rollout.pk).get()
    rollouts.dismiss(rollout, timezone.now())
    rollouts.close(rollout, timezone.now())
    rollouts.join(timezone.now())
    assert not made.tasks.filter(gateway=failed.gateway).exists()
    page = text(operator.get(reverse("admin:ota_rollout_change", args=[made.pk])))
    assert told_in_preview in page


def test_older_versions_want_a_tick_again(operator: Client, acme: Organization) -> None:
    rollout = make_done(acme, allow_downgrade=True, target_version=NEW)
    make_dock("10.02.0000", organization=acme)
    assert "1 device would get an <strong>older</strong> version" in text(
        operator.get(address(rollout))
    )
    assert "older versions were not accepted" in told(confirm(operator, rollout))
    confirm(operator, rollout, accept_downgrades="on")
    assert Rollout.objects.count() == 2


def test_the_versions_of_several_models_are_one_choice(
    operator: Client, acme: Organization
) -> None:
    rollout = make_done(acme)
    dock = make_dock(NEW, organization=acme)
    aircraft = make_aircraft(dock, "09.00.0001")
    package = make_package("09.00.0001", models=("0-91-1",))
    make_target(make_task(dock, rollout=rollout, status=TaskStatus.OK), aircraft, package)
    other = make_aircraft(make_dock(organization=acme), "08.00.0001")
    make_package("11.00.0000")
    assert f"As in Autumn: {NEW} · DJI Dock 2; 09.00.0001 · Matrice 3TD" in text(
        operator.get(address(rollout))
    )
    confirm(operator, rollout)
    target = Device.objects.get(pk=other.pk).upgrades.get()
    assert target.to_version == "09.00.0001"


def test_a_version_that_is_offered_no_more_is_said_to_be(
    operator: Client, acme: Organization
) -> None:
    rollout = make_done(acme, target_version="09.00.0001")
    make_dock(organization=acme)
    page = text(operator.get(address(rollout)))
    assert "09.00.0001 · not offered for these devices" in page
    assert "No package in the library" in page


def test_a_list_that_was_narrowed_is_launched_like_any_other(
    operator: Client, acme: Organization
) -> None:
    rollout = make_done(acme)
    form = context(operator, f"{address(rollout)}%26need%3Dregular")["form"]
    assert form.data.get("name") is None


def test_the_list_of_the_rest_says_whose_it_is(operator: Client, acme: Organization) -> None:
    rollout = make_done(acme)
    rest = make_dock(organization=acme)
    page = context(operator, f"/admin/fleet/device/?rest_of={rollout.pk}")
    assert list(page["cl"].queryset) == [rest]


def test_no_question_looks_for_devices_among_devices(operator: Client, acme: Organization) -> None:
    rollout = make_done(acme)
    make_dock(organization=acme)
    with CaptureQueriesContext(connection) as queries:
        operator.get(address(rollout))
    asked = [query["sql"].count('FROM "fleet_device"') for query in queries]
    assert max(asked) == 1


def test_whose_devices_they_are_and_what_they_got_is_asked_once(
    operator: Client, acme: Organization
) -> None:
    rollout = make_done(acme)
    make_dock(organization=acme)
    with CaptureQueriesContext(connection) as queries:
        operator.get(address(rollout))
    asked = [query["sql"] for query in queries if "SELECT DISTINCT" in query["sql"]]
    of_targets = [sql for sql in asked if 'AS "device__model"' in sql]
    assert len(of_targets) == 2  # for the rest, and for the choices
    assert len(asked) == 3


@pytest.mark.parametrize("may_see", [True, False])
def test_a_rollout_that_nobody_shows_has_no_rest(acme: Organization, may_see: bool) -> None:
    make_listening()
    make_package()
    rollout = make_done(acme)
    make_dock(organization=acme)
    client = staff("view_device", "upgrade_devices", *(["view_rollout"] if may_see else []))
    pk = 4711 if may_see else rollout.pk
    page = client.get(f"{PREVIEW}?query=rest_of%3D{pk}")
    assert "There is no such device" in text(page)
    assert "Autumn" not in text(page)
