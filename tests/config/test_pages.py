"""Pages of the console that are not about one thing: refusals, faults, empty lists, times."""

import datetime as dt

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from console.labels import ago
from fleet.models import Device
from tests.make import NEW, OLD, make_dock, make_rollout, make_task
from tests.people import log_in, text

pytestmark = pytest.mark.django_db

LISTS = [
    *("fleet_device", "fleet_site", "fleet_organization", "ota_firmwarepackage", "ota_productcode"),
    *("ota_rollout", "ota_upgradetask", "ota_foreignupgrade", "mqtt_bridge_failedmessage"),
]


@pytest.fixture
def administrator(client: Client) -> Client:
    log_in(client, "Administrators")
    return client


def test_an_address_that_leads_nowhere_leads_back(client: Client) -> None:
    reply = client.get("/no/such/page")
    assert reply.status_code == 404
    assert "There is no such page" in text(reply)
    assert 'href="/admin/"' in text(reply)


def test_who_lacks_a_permission_is_told_so(client: Client) -> None:
    log_in(client, "Viewers")
    reply = client.get("/admin/ota/firmwarepackage/add/")
    assert reply.status_code == 403
    assert "Your account lacks the permission." in text(reply)


def test_a_lack_of_permission_is_logged_without_a_traceback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    log_in(client, "Viewers")
    client.get("/admin/ota/firmwarepackage/add/")
    (line,) = [record for record in caplog.records if record.name == "django.request"]
    assert "/admin/ota/firmwarepackage/add/" in line.getMessage()
    assert not line.exc_info


def test_nothing_offers_to_leave_the_console_for_another_site(administrator: Client) -> None:
    assert "View site" not in text(administrator.get("/admin/"))
    assert "Return to site" not in text(Client().get("/admin/login/"))


def test_who_logs_out_is_told_so_in_few_words(administrator: Client) -> None:
    shown = text(administrator.post("/admin/logout/"))
    assert "You are logged out" in shown
    assert "quality time" not in shown
    assert "Log in again" in shown


def test_a_plain_page_asks_for_no_other_file(client: Client) -> None:
    assert '<link rel="icon" href="data:,">' in text(client.get("/no/such/page"))


def test_a_page_that_was_open_for_too_long_is_told_so() -> None:
    reply = Client(enforce_csrf_checks=True).post("/admin/login/")
    assert reply.status_code == 403
    assert "nothing was changed" in text(reply)


def test_the_page_of_a_fault_needs_nothing_that_may_be_broken() -> None:
    assert "This is a fault of the software" in render_to_string("500.html")


@pytest.mark.parametrize("name", LISTS)
def test_an_empty_list_says_what_to_do_next(administrator: Client, name: str) -> None:
    shown = text(administrator.get(reverse(f"admin:{name}_changelist")))
    assert "yet</h2> <p>" in shown
    assert "No results found" not in shown


def test_a_search_that_finds_nothing_leads_back_to_all(administrator: Client) -> None:
    make_dock()
    shown = text(administrator.get("/admin/fleet/device/?q=nobody"))
    assert "Nothing fits the search and the filters" in shown


def test_times_say_their_zone(administrator: Client) -> None:
    at = dt.datetime(2024, 11, 7, 10, 0, tzinfo=dt.UTC)
    assert 'title="2024-11-07 10:00:00 UTC"' in ago(at)
    dock = make_dock(online_since=at)
    page = reverse("admin:fleet_device_change", args=[dock.pk])
    assert "2024-11-07 10:00:00 UTC" in text(administrator.get(page))


def test_times_follow_the_zone_of_the_installation() -> None:
    with timezone.override("Europe/Zurich"):
        assert "2024-11-07 11:00:00 CET" in ago(dt.datetime(2024, 11, 7, 10, tzinfo=dt.UTC))


# Devices and their upgrades


def test_deleting_is_the_last_action_of_the_list(administrator: Client) -> None:
    make_dock()
    shown = text(administrator.get("/admin/fleet/device/"))
    assert shown.index('value="upgrade"') < shown.index('value="delete_selected"')


def test_a_device_that_was_upgraded_is_not_deleted_and_the_reason_is_told(
    administrator: Client,
) -> None:
    dock = make_task().gateway
    url = reverse("admin:fleet_device_delete", args=[dock.pk])
    assert "it was upgraded from here, and that history needs it" in text(administrator.get(url))
    administrator.post(url, {"post": "yes"})
    assert Device.objects.exists()


def test_a_device_that_was_never_upgraded_is_deleted(administrator: Client) -> None:
    dock = make_dock()
    administrator.post(reverse("admin:fleet_device_delete", args=[dock.pk]), {"post": "yes"})
    assert not Device.objects.exists()


def test_a_history_is_offered_only_where_there_is_one(administrator: Client) -> None:
    dock = make_dock()
    page = reverse("admin:fleet_device_change", args=[dock.pk])
    assert "/history/" not in text(administrator.get(page))
    administrator.post(page, {"callsign": "North", "site": ""})
    assert "/history/" in text(administrator.get(page))


def test_a_tasks_page_is_its_history(administrator: Client) -> None:
    page = reverse("admin:ota_upgradetask_change", args=[make_task().pk])
    assert "/history/" not in text(administrator.get(page))


def test_a_downgrade_is_called_so_after_the_launch_too(administrator: Client) -> None:
    rollout = make_rollout(allow_downgrade=True)
    back = make_task(make_dock(NEW), rollout=rollout, version=OLD)
    forth = make_task(make_dock(OLD), version=NEW)
    for page in (
        reverse("admin:ota_rollout_change", args=[rollout.pk]),
        reverse("admin:ota_upgradetask_change", args=[back.pk]),
        reverse("admin:fleet_device_change", args=[back.gateway.pk]),
    ):
        assert ">Downgrade<" in text(administrator.get(page))
    page = reverse("admin:ota_upgradetask_change", args=[forth.pk])
    assert ">Downgrade<" not in text(administrator.get(page))
