"""The report of a rollout: a page to print, and a table for other programs."""

import csv
import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from benchmarks import filling
from benchmarks.filling import Amounts
from fleet.models import Site
from ota import outcomes, rollouts
from ota.admin import report
from ota.models import Rollout, UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from tests.make import make_aircraft, make_dock, make_failed, make_rollout, make_task
from tests.people import queries, staff, text

pytestmark = pytest.mark.django_db

S = TaskStatus
SENT = dt.datetime(2026, 5, 5, 12, tzinfo=dt.UTC)


@pytest.fixture
def viewer() -> Client:
    return staff("view_rollout")


def address(rollout: Rollout) -> str:
    return reverse("admin:ota_rollout_report", args=[rollout.pk])


def make_proven(rollout: Rollout, minutes: int = 10, **fields: Any) -> UpgradeTask:
    """Proven so many minutes after the command."""
    end = SENT + dt.timedelta(minutes=minutes)
    ended: dict[str, Any] = {"status": S.OK, "sent_at": SENT, "finished_at": end}
    task = make_task(rollout=rollout, **ended | fields)
    task.targets.update(confirmed_at=end)
    return task


def table(client: Client, rollout: Rollout) -> list[dict[str, str]]:
    reply = client.get(address(rollout), {"format": "csv"})
    content = b"".join(reply.streaming_content)  # type: ignore[attr-defined]
    return list(csv.DictReader(content.decode().splitlines()))


def test_who_may_not_see_rollouts_gets_no_report() -> None:
    rollout = make_rollout()
    assert staff("view_device").get(address(rollout)).status_code == 403
    assert staff().get(address(rollout), {"format": "csv"}).status_code == 403


def test_a_report_of_nothing_that_exists_is_not_found(viewer: Client) -> None:
    assert viewer.get("/admin/ota/rollout/999/report/").status_code == 404


def test_the_page_tells_counts_durations_and_failures_with_reasons(viewer: Client) -> None:
    rollout = make_rollout(name="November")
    for minutes in (10, 20, 60):
        make_proven(rollout, minutes)
    make_failed(rollout)
    make_failed(rollout)
    shown = text(viewer.get(address(rollout)))
    for words in (
        "November",
        "3 of 5 proven (60 %), 2 unsuccessful",
        "20 min (median), 10 min to 1 h",
        '<td>2</td><td>Failed</td><td class="ota-wide">The link broke.</td>',
    ):
        assert words in shown


def test_one_reason_is_counted_once_whatever_the_devices_code(viewer: Client) -> None:
    rollout = make_failed(make_rollout()).rollout
    make_failed(rollout, result=312014)
    assert outcomes.failures(rollout) == [("Failed", "The link broke.", 2)]


def test_each_device_stands_with_its_versions_proof_and_attempts(viewer: Client) -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    rollout = make_rollout()
    make_proven(rollout, 15, dock=dock, aircraft=aircraft, attempt=2)
    rows = table(viewer, rollout)
    assert [row["device"] for row in rows] == [aircraft.sn, dock.sn]
    assert {row["dock"] for row in rows} == {dock.sn}
    assert (rows[1]["from_version"], rows[1]["to_version"]) == ("10.01.1607", "10.01.3205")
    assert (rows[1]["proof_seconds"], rows[1]["attempts"]) == ("900", "2")
    assert rows[1]["how"] == "Regular"


def test_the_report_counts_what_was_retried_once(viewer: Client) -> None:
    rollout = make_failed(make_rollout()).rollout
    (retry,) = rollouts.retry(rollout, timezone.now())
    UpgradeTask.objects.move([retry.pk], TaskStatus.OK, timezone.now())
    shown = text(viewer.get(address(rollout)))
    assert "1 of 1 proven (100 %); 1 earlier failure was retried</p>" in shown


def test_a_task_that_was_retried_says_so(viewer: Client) -> None:
    rollout = make_rollout()
    first = make_failed(rollout)
    make_proven(rollout, dock=first.gateway, retry_of=first)
    assert [row["retried"] for row in table(viewer, rollout)] == ["yes", "no"]


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_that_begins_like_a_formula_is_made_harmless(viewer: Client, evil: str) -> None:
    rollout = make_rollout()
    make_failed(rollout, message=evil)
    reply = viewer.get(address(rollout), {"format": "csv"})
    assert f"'{evil}" in b"".join(reply.streaming_content).decode()  # type: ignore[attr-defined]


def test_a_sites_name_is_made_harmless_too(viewer: Client) -> None:
    dock = make_dock()
    assert dock.organization
    site = Site.objects.create(organization=dock.organization, name="=cmd", time_zone="UTC")
    dock.site = site
    dock.save()
    rollout = make_failed(make_rollout(), dock=dock).rollout
    assert table(viewer, rollout)[0]["site"] == "'=cmd"


@pytest.mark.parametrize("page", ["", "x", "0", "99", "-1"])
def test_a_wrong_page_shows_one_all_the_same(viewer: Client, page: str) -> None:
    rollout = make_failed(make_rollout()).rollout
    assert "The link broke." in text(viewer.get(address(rollout), {"page": page}))


def test_a_name_is_text_and_not_markup(viewer: Client) -> None:
    assert "<b>bold</b>" not in text(viewer.get(address(make_rollout(name="<b>bold</b>"))))


def test_the_page_costs_the_same_for_three_and_for_sixty_tasks(viewer: Client) -> None:
    rollout = make_rollout()
    for _ in range(3):
        make_failed(rollout)
    few = queries(viewer, address(rollout))
    for _ in range(57):
        make_failed(rollout)
    assert queries(viewer, address(rollout)) == few


def test_the_table_is_read_in_pieces(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    task = make_failed(make_rollout())
    target = task.targets.get()
    docks = [make_dock() for _ in range(20)]
    copies = 125  # devices are shared: what counts is the number of rows
    for _ in range(copies):
        copy = UpgradeTask.objects.create(
            rollout=task.rollout,
            wave=task.wave,
            gateway=task.gateway,
            status=S.FAILED,
            status_at=SENT,
        )
        UpgradeTarget.objects.bulk_create(
            UpgradeTarget(
                task=copy,
                device=dock,
                package=target.package,
                upgrade_type="regular",
                from_version="1",
                to_version="2",
            )
            for dock in docks
        )
    with django_assert_num_queries(6):  # 2,501 rows: three pieces, and one that is empty
        pieces = list(outcomes.as_csv(task.rollout))
    assert len(pieces) == 4
    assert sum(piece.count("\n") for piece in pieces) == copies * 20 + 2


async def test_an_asynchronous_server_gets_the_table_piece_by_piece() -> None:
    waiting = ["rows", "head"]
    sent = report.one_after_the_other(waiting.pop() for _ in range(2))
    assert await anext(sent) == "head"
    assert waiting == ["rows"]
    assert [piece async for piece in sent] == ["rows"]


def test_a_retry_is_looked_up_although_hardly_any_task_is_one() -> None:
    """SQLite took all that are none for one value, and read every task for each row of a report."""
    filling.make(Amounts(160, 4000, 1))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    rollout = Rollout.objects.latest("pk")
    plan = outcomes.targets(rollout, outcomes.extent(rollout)).explain()
    assert connection.vendor != "sqlite" or "(retry_of_id=?)" in plan
