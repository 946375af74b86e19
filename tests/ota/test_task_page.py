"""The console's list of upgrade tasks, and a task's page with its history."""

import datetime as dt
import html
import re
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ota.models import FoldedReports, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from tests.make import NEW, OLD, make_aircraft, make_dock, make_rollout, make_task
from tests.people import queries, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/upgradetask/"
PROGRESS = TaskEvent.Kind.PROGRESS


@pytest.fixture
def viewer() -> Client:
    return staff("view_upgradetask")


@pytest.fixture
def operator() -> Client:
    return staff("view_upgradetask", "upgrade_devices")


def page(client: Client, task: UpgradeTask, query: str = "") -> Any:
    return client.get(reverse("admin:ota_upgradetask_change", args=[task.pk]) + query)


def cancel(client: Client, task: UpgradeTask) -> Any:
    return client.post(reverse("admin:ota_upgradetask_cancel", args=[task.pk]), follow=True)


def make_events(task: UpgradeTask, number: int, **fields: Any) -> None:
    """Lines of progress, numbered by their tid."""
    TaskEvent.objects.bulk_create(
        TaskEvent(
            **{"task": task, "at": timezone.now(), "kind": PROGRESS, "tid": f"tid-{i}"} | fields
        )
        for i in range(number)
    )


def found(client: Client, query: str) -> list[UpgradeTask]:
    return list(client.get(LIST + query).context["cl"].result_list)


def test_the_page_shows_what_is_upgraded_and_the_proof(viewer: Client) -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock), status=TaskStatus.VERIFYING)
    task.targets.filter(device=dock).update(confirmed_at=timezone.now(), reported_version=NEW)
    text = page(viewer, task).content.decode()
    for shown in (dock.sn, task.bid, task.tid, OLD, NEW, "Regular", "Verifying"):
        assert shown in text
    assert text.count('class="ota-proof" data-on') == 1


def test_the_history_shows_each_line_in_full(viewer: Client) -> None:
    task = make_task(status=TaskStatus.FAILED)
    now = timezone.now()
    fields = {"device_status": "in_progress", "percent": 40, "step": "download_firmware"}
    make_events(task, 1, **fields, rate=2048, reported_at=now, bid="bid-0", is_late=True)
    make_events(task, 1, result=312014, to_status="failed", from_status="in_progress")
    text = page(viewer, task).content.decode()
    for shown in ("in_progress", "40 % · Download · 2.0\xa0KiB/s", "tid-0", "bid-0", ">late<"):
        assert shown in text
    assert "312014: The device is already upgrading." in text
    assert "In progress &rarr;" in text


def test_the_newest_page_of_a_long_history_comes_first(viewer: Client) -> None:
    task = make_task()
    make_events(task, 150)
    assert [line["event"].tid for line in page(viewer, task).context["events"]][-1] == "tid-149"
    assert len(page(viewer, task).context["events"]) == 50
    assert len(page(viewer, task, "?page=1").context["events"]) == 100


def test_reports_that_were_folded_are_told_in_numbers(viewer: Client) -> None:
    task = make_task(status=TaskStatus.FAILED)
    first = dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC)
    for status, result, number in (("in_progress", 0, 123), ("failed", 312014, 1)):
        FoldedReports.objects.create(
            task=task, device_status=status, result=result, reports=number, late=0,
            first_at=first, last_at=first + dt.timedelta(hours=1),
        )  # fmt: skip
    text = page(viewer, task).content.decode()
    assert "124 progress reports from 2024-05-01 10:00:00 to 2024-05-01 11:00:00 were" in text
    assert "failed, result 312014" in text


def test_nothing_is_said_of_folding_before_it(viewer: Client) -> None:
    task = make_task()
    make_events(task, 3)
    assert "folded" not in page(viewer, task).content.decode()


@pytest.mark.parametrize("query", ["?page=x", "?page=99", "?page=-1", "?page="])
def test_a_wrong_address_shows_a_page_all_the_same(viewer: Client, query: str) -> None:
    task = make_task()
    make_events(task, 3)
    assert len(page(viewer, task, query).context["events"]) == 3


def test_the_page_costs_the_same_for_five_and_for_three_hundred_lines(viewer: Client) -> None:
    dock = make_dock()
    task = make_task(dock, aircraft=make_aircraft(dock))
    url = reverse("admin:ota_upgradetask_change", args=[task.pk])
    author = User.objects.create_user("ada")
    make_events(task, 5, actor=author)
    few = queries(viewer, url)
    make_events(task, 295, actor=author)
    assert queries(viewer, url) == few


def test_the_list_costs_the_same_for_two_pages_and_for_three(viewer: Client) -> None:
    rollout = make_rollout()
    for _ in range(51):
        make_task(rollout=rollout)
    few = queries(viewer, LIST)
    for _ in range(51):
        make_task(rollout=rollout)
    assert queries(viewer, LIST) == few


def test_tasks_are_found_by_serial_number_callsign_and_bid(viewer: Client) -> None:
    dock = make_dock(callsign="Harbour")
    task = make_task(dock)
    make_task()
    for word in (dock.sn, "harb", task.bid):
        assert found(viewer, f"?q={word}") == [task]


def test_tasks_are_filtered_by_status_and_rollout(viewer: Client) -> None:
    task = make_task(status=TaskStatus.FAILED)
    make_task()
    assert found(viewer, "?status__exact=failed") == [task]
    assert found(viewer, f"?rollout={task.rollout_id}") == [task]
    assert found(viewer, "?rollout=x") == []


def test_only_the_newest_rollouts_and_the_chosen_one_are_offered(viewer: Client) -> None:
    task = make_task()
    for number in range(10, 35):
        make_rollout(name=f"Number {number}")
    text = viewer.get(f"{LIST}?rollout={task.rollout_id}").content.decode()
    assert f"Rollout {task.rollout_id}" in text
    assert ("Number 25" in text, "Number 10" in text) == (True, False)


def test_who_may_upgrade_cancels_a_task_that_waits(operator: Client) -> None:
    task = make_task()
    assert "it cannot be stopped" in page(operator, task).content.decode()
    assert "Canceled." in cancel(operator, task).content.decode()
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.CANCELED


@pytest.mark.parametrize(("result", "status"), [(None, "Timed out"), (312002, "Failed")])
def test_who_cancels_what_went_out_before_is_told_how_it_ended(
    operator: Client, result: int | None, status: str
) -> None:
    task = make_task(attempt=1, result=result)
    shown = html.unescape(cancel(operator, task).content.decode())
    assert f"It is not sent again. It had been sent before, so it is “{status}” now" in shown
    assert "Canceled." not in shown
    assert LogEntry.objects.get().change_message == f"Called off while it waited: {status}."


def test_a_task_that_was_sent_is_not_canceled(operator: Client) -> None:
    task = make_task(status=TaskStatus.SENT)
    assert "ota-cancel" not in page(operator, task).content.decode()
    assert "a running upgrade cannot be stopped" in cancel(operator, task).content.decode()
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.SENT


def test_who_may_only_look_sees_no_button_and_cannot_cancel(viewer: Client) -> None:
    task = make_task()
    assert "ota-cancel" not in page(viewer, task).content.decode()
    assert cancel(viewer, task).status_code == 403
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.PENDING


def test_a_link_cannot_cancel(operator: Client) -> None:
    task = make_task()
    response = operator.get(reverse("admin:ota_upgradetask_cancel", args=[task.pk]), follow=True)
    assert response.redirect_chain[-1][0] == reverse("admin:ota_upgradetask_change", args=[task.pk])
    assert "Nothing was done" in response.content.decode()
    assert UpgradeTask.objects.get().status == TaskStatus.PENDING


def test_the_page_is_live_only_for_who_may_watch_the_rollout(viewer: Client) -> None:
    task = make_task()
    assert "data-socket" not in page(viewer, task).content.decode()
    watcher = staff("view_upgradetask", "view_rollout")
    socket = f'data-socket="/ws/rollouts/{task.rollout_id}/?task={task.pk}"'
    assert socket in page(watcher, task).content.decode()


def test_nobody_looks_without_the_permission() -> None:
    task = make_task()
    assert page(staff(), task).status_code == 403
    assert page(Client(), task).status_code == 302


def test_nobody_adds_changes_or_deletes_a_task(admin_client: Client) -> None:
    task = make_task()
    change = reverse("admin:ota_upgradetask_change", args=[task.pk])
    assert admin_client.get(reverse("admin:ota_upgradetask_add")).status_code == 403
    assert admin_client.post(change, {"bid": "other"}).status_code == 403
    delete = reverse("admin:ota_upgradetask_delete", args=[task.pk])
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    assert UpgradeTask.objects.get(pk=task.pk).bid == task.bid


def test_every_bar_has_a_colour_without_which_nothing_of_it_shows() -> None:
    templates = Path(apps.get_app_config("ota").path, "templates").rglob("*.html")
    bars = [
        bar
        for path in templates
        for bar in re.findall("<progress [^>]*ota-progress[^>]*>", path.read_text())
    ]
    assert len(bars) >= 3
    assert all("data-colour" in bar for bar in bars)
