"""Lists of many rows, page by page."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from console import paging
from console.paging import BoundedPaginator, KeyPaginator
from fleet.models import Device
from ota.admin.upgrades import UpgradeTaskAdmin
from tests.make import make_dock, make_rollout, make_task
from tests.people import context, log_in, text

pytestmark = pytest.mark.django_db


def make_docks(number: int) -> None:
    Device.objects.bulk_create(
        Device(sn=f"D{one}", callsign=f"C{9 - one}") for one in range(number)
    )


def shown(paginator: KeyPaginator, page: int) -> list[str]:
    return [device.sn for device in paginator.page(page).object_list]


def test_a_page_has_its_rows_in_the_order_of_the_list() -> None:
    make_docks(5)
    paginator = KeyPaginator(Device.objects.order_by("callsign"), 2)
    assert [shown(paginator, page) for page in (1, 2, 3)] == [["D4", "D3"], ["D2", "D1"], ["D0"]]


def test_a_page_near_the_end_is_looked_for_from_there() -> None:
    make_docks(5)
    paginator = KeyPaginator(Device.objects.order_by("-callsign"), 2)

    with CaptureQueriesContext(connection) as queries:
        found = [shown(paginator, page) for page in (1, 2, 3)]

    assert found == [["D0", "D1"], ["D2", "D3"], ["D4"]]
    assert not any("OFFSET 4" in query["sql"] for query in queries)


@pytest.mark.parametrize("page", [1, 2, 3, 4, 5])
def test_rows_without_a_value_keep_their_place_on_each_page(page: int) -> None:
    make_docks(9)
    Device.objects.filter(sn__in=["D2", "D3", "D7"]).update(firmware_number=5)
    rows = Device.objects.order_by("firmware_number", "-sn")

    found = shown(KeyPaginator(rows, 2), page)

    assert found == [device.sn for device in rows][2 * page - 2 : 2 * page]


def test_rows_that_fit_on_a_page_are_looked_for_once(
    client: Client,
) -> None:
    log_in(client, "Viewers")
    make_docks(5)
    with CaptureQueriesContext(connection) as queries:
        shown = context(client, f"{reverse('admin:fleet_device_changelist')}?q=C7")["cl"]
    assert [device.sn for device in shown.result_list] == ["D2"]
    assert sum("LIKE" in query["sql"] for query in queries) == 1


def test_a_page_asks_no_more_whether_its_rows_are_wanted() -> None:
    make_docks(4)
    paginator = KeyPaginator(Device.objects.filter(callsign__lt="C9").order_by("sn"), 2)
    page: Any = paginator.page(1).object_list
    assert "callsign" not in str(page.query).partition("WHERE")[2]
    assert [device.sn for device in page] == ["D1", "D2"]


def test_behind_the_last_page_comes_the_last_page() -> None:
    make_docks(3)
    assert shown(KeyPaginator(Device.objects.order_by("sn"), 2), 99) == ["D2"]


def test_a_list_that_is_short_is_counted_and_ordered_as_wanted() -> None:
    make_docks(3)
    paginator = BoundedPaginator(Device.objects.order_by("-sn"), 2)
    assert (paginator.count, paginator.is_cut, paginator.in_all) == (3, False, "3")
    assert shown(paginator, 1) == ["D2", "D1"]


def test_behind_the_bound_a_list_is_in_its_own_order_and_leads_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "DEPTH", 4)
    make_docks(6)
    paginator = BoundedPaginator(Device.objects.order_by("-callsign"), 2)
    assert (paginator.count, paginator.num_pages, paginator.is_cut) == (4, 2, True)
    assert shown(paginator, 9) == ["D2", "D3"]


def test_how_many_there_are_says_what_is_counted_and_what_is_estimated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "DEPTH", 4)
    make_docks(6)
    everything = BoundedPaginator(Device.objects.order_by("sn"), 2)
    some = BoundedPaginator(Device.objects.filter(sn__startswith="D").order_by("sn"), 2)
    assert everything.count == some.count == 4
    assert some.in_all == "more than 4"
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE fleet_device")
    assert everything.in_all == ("about 6" if connection.vendor == "postgresql" else "6")


def test_a_list_of_too_many_tasks_says_so_and_offers_no_order(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(client, "Viewers")
    rollout = make_rollout()
    for _ in range(3):
        make_task(make_dock(), rollout=rollout)
    page = reverse("admin:ota_upgradetask_changelist")
    assert "o=1" in text(client.get(page))
    monkeypatch.setattr(paging, "DEPTH", 2)
    monkeypatch.setattr(UpgradeTaskAdmin, "list_per_page", 1)
    shown = text(client.get(f"{page}?status__exact=pending"))
    assert "more than 2 upgrade tasks" in shown
    assert "the newest 2 are listed" in shown
    assert "o=1" not in shown


@pytest.mark.parametrize(
    "name",
    [
        *("fleet_device", "ota_upgradetask", "ota_rollout", "ota_notice"),
        *("ota_webhookdelivery", "ota_foreignupgrade"),
    ],
)
def test_only_a_list_that_is_searched_or_filtered_offers_to_show_all(
    admin_client: Client, name: str
) -> None:
    page = reverse(f"admin:{name}_changelist")
    assert "Show all" not in text(admin_client.get(page))
    chosen = {"news__kind__exact": "failed"} if name == "ota_notice" else {"q": "nobody"}
    chosen = {"status__exact": "failed"} if name == "ota_webhookdelivery" else chosen
    assert "Show all" in text(admin_client.get(page, chosen))


def test_great_numbers_are_told_with_separators(client: Client) -> None:
    log_in(client, "Viewers")
    make_docks(1001)
    assert "1,001 devices" in text(client.get(reverse("admin:fleet_device_changelist")))


@pytest.mark.parametrize("part", ["sn", "whole", "callsign", "bid"])
def test_tasks_are_found_by_their_dock_and_by_their_bid(client: Client, part: str) -> None:
    log_in(client, "Viewers")
    wanted = make_task(make_dock(sn="7CTDMWANTED", callsign="North gate"))
    make_task(make_dock(sn="7CTDMOTHER"))
    said = {
        "sn": "mwant",
        "whole": wanted.gateway.sn,
        "callsign": "gate north",
        "bid": wanted.bid.upper(),
    }[part]
    shown = context(
        client, f"{reverse('admin:ota_upgradetask_changelist')}?{urlencode({'q': said})}"
    )
    assert [task.pk for task in shown["cl"].result_list] == [wanted.pk]
