"""The console's list of rollouts, and a rollout's page."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Site
from ota import live, rollouts, rows, status
from ota.models import Rollout, RolloutEvent, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from tests.make import make_aircraft, make_dock, make_failed, make_rollout, make_task, make_wave
from tests.people import queries, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/rollout/"


@pytest.fixture
def viewer() -> Client:
    return staff("view_rollout")


@pytest.fixture
def operator() -> Client:
    return staff("view_rollout", "upgrade_devices")


def page(client: Client, rollout: Rollout, query: str = "") -> Any:
    return client.get(reverse("admin:ota_rollout_change", args=[rollout.pk]) + query)


def cancel(client: Client, rollout: Rollout) -> Any:
    return steer(client, rollout, "cancel")


def steer(client: Client, rollout: Rollout, deed: str) -> Any:
    """Cancels, pauses or resumes."""
    return client.post(reverse(f"admin:ota_rollout_{deed}", args=[rollout.pk]))


def make_tasks(rollout: Rollout, number: int) -> None:
    for _ in range(number):
        dock = make_dock()
        make_task(dock, rollout=rollout, aircraft=make_aircraft(dock))


def test_the_page_shows_the_rollout_and_its_tasks(viewer: Client) -> None:
    dock = make_dock(callsign="Harbour")
    rollout = make_rollout(name="November", limit_in_flight=7)
    make_task(dock, rollout=rollout, status=TaskStatus.IN_PROGRESS, percent=42, rate=1_500_000)
    text = page(viewer, rollout).content.decode()
    for shown in ("November", "7 docks at most", "Harbour", dock.sn, "0 of 1 proven (0 %)"):
        assert shown in text
    assert "42 % · 1.4\xa0MiB/s" in text
    assert f'data-socket="/ws/rollouts/{rollout.pk}/"' in text


def test_name_and_facts_are_among_what_an_open_page_fetches_anew(viewer: Client) -> None:
    text = page(viewer, make_rollout(name="November")).content.decode()
    assert '<h1 class="ota-title" data-live="name">November</h1>' in text
    assert '<dl class="ota-facts" data-live="facts">' in text


@pytest.mark.parametrize(
    ("fields", "remark", "shown"),
    [
        ({}, "; from the terminal", "from the terminal"),
        ({"is_automatic": True}, "", "the system"),
    ],
)
def test_the_author_is_the_system_only_where_it_is(
    viewer: Client, fields: dict[str, Any], remark: str, shown: str
) -> None:
    rollout = make_rollout(**fields)
    text = f"1 dock in 1 wave{remark}"
    rollout.events.create(at=rollout.created_at, kind=RolloutEvent.Kind.STARTED, text=text)
    report = viewer.get(reverse("admin:ota_rollout_report", args=[rollout.pk]))
    for found in (page(viewer, rollout), report):
        assert f"<dt>Author</dt><dd>{shown}</dd>" in found.content.decode()
    assert shown in viewer.get(LIST).content.decode()


def test_great_numbers_have_separators_however_they_come(viewer: Client) -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout, status=TaskStatus.OK)
    told = {"gateway": task.gateway, "wave": task.wave, "status_at": task.status_at}
    UpgradeTask.objects.bulk_create(
        UpgradeTask(rollout=rollout, status=TaskStatus.FAILED, **told) for _ in range(1000)
    )
    text = page(viewer, rollout).content.decode()
    assert "1 of 1,001 proven (0 %)" in text
    assert 'data-wave-field="tasks">1,001<' in text
    assert "Failed <b>1,000</b>" in " ".join(text.split())


def test_a_name_is_text_and_not_markup(viewer: Client) -> None:
    assert "<b>bold</b>" not in page(viewer, make_rollout(name="<b>bold</b>")).content.decode()


def test_a_task_says_what_it_waits_for(viewer: Client) -> None:
    rollout = make_rollout(limit_in_flight=1)
    reasons = [{"code": "offline", "text": "the dock is offline"}]
    make_task(rollout=rollout, waits_for=reasons)
    make_task(rollout=rollout, is_ready=True)
    text = page(viewer, rollout).content.decode()
    assert "Waits: the dock is offline" in text
    assert "Ready, waits for a free slot: at most 1 at once" in text


def test_a_task_that_waits_for_a_slot_names_all_limits_that_may_hold_it(settings: Settings) -> None:
    settings.SYSTEM_LIMIT_IN_FLIGHT = 50
    dock = make_dock()
    assert dock.organization
    dock.site = Site.objects.create(name="Roof", organization=dock.organization)
    dock.save()
    rollout = make_rollout(limit_per_site=1)
    there = make_task(dock, rollout=rollout, is_ready=True)
    nowhere = make_task(rollout=rollout, is_ready=True)
    found = "Ready, waits for a free slot: at most 20 at once"
    assert rows.note(there, rollout) == f"{found}, 1 of a site, 50 of all rollouts"
    assert rows.note(nowhere, rollout) == f"{found}, 50 of all rollouts"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("needs_approval", "Not issued: the rollout needs approval"),
        ("paused", "Not issued while the rollout is paused"),
        ("canceled", "Not issued: the rollout does not run any more"),
    ],
)
def test_a_task_says_why_its_rollout_holds_it_back(status: str, told: str) -> None:
    assert note(make_task(rollout=make_rollout(status=status))) == told


def test_a_task_of_a_closed_wave_waits_for_it() -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    assert note(make_task(rollout=rollout, wave=second)) == "Waits for wave 2 to open"


def test_a_task_waits_for_the_start() -> None:
    rollout = make_rollout(starts_at=dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC))
    rollout.wave_set.update(opened_at=None)
    assert note(make_task(rollout=rollout)) == "Waits for the start, 2099-01-01 21:00 UTC"


def test_a_task_that_rests_after_a_failure_says_until_when_and_what_failed() -> None:
    again = timezone.now() + dt.timedelta(minutes=5)
    pause = {"code": "not_yet", "text": "its pause after a failure lasts until 22:38"}
    task = make_task(result=312003, retries=1, not_before=again, waits_for=[pause])
    told = note(task)
    assert "lasts until 22:38" in told
    assert "312003: " in told


def test_a_task_that_was_never_tried_tells_of_no_attempt() -> None:
    assert "attempt" not in note(make_task(message="a remark"))


def note(task: UpgradeTask) -> str:
    return rows.note(task, task.rollout)


def test_a_failed_task_gives_the_devices_result_in_words(viewer: Client) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, status=TaskStatus.FAILED, result=312014)
    assert "312014: The device is already upgrading." in page(viewer, rollout).content.decode()


@pytest.mark.parametrize(("query", "shown"), [("?status=failed", 1), ("?status=in_flight", 2)])
def test_tasks_are_filtered_by_status(viewer: Client, query: str, shown: int) -> None:
    rollout = make_rollout()
    for each in (TaskStatus.FAILED, TaskStatus.SENT, TaskStatus.VERIFYING, TaskStatus.PENDING):
        make_task(rollout=rollout, status=each)
    assert len(page(viewer, rollout, query).context["tasks"]) == shown


@pytest.mark.parametrize("query", ["?page=9", "?page=x", "?page=-1", "?status=odd", "?page=%00"])
def test_a_wrong_address_shows_a_page_all_the_same(viewer: Client, query: str) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    assert len(page(viewer, rollout, query).context["tasks"]) == 1


def test_there_are_fifty_tasks_on_a_page(viewer: Client) -> None:
    rollout = make_rollout()
    make_tasks(rollout, 51)
    first, second = page(viewer, rollout), page(viewer, rollout, "?page=2")
    assert (len(first.context["tasks"]), len(second.context["tasks"])) == (50, 1)
    assert 'page=2" data-turn="1" >Next' in first.content.decode()


def test_an_empty_rollout_has_a_page(viewer: Client) -> None:
    assert "No tasks" in page(viewer, make_rollout()).content.decode()


def test_the_page_costs_the_same_for_three_and_for_sixty_tasks(viewer: Client) -> None:
    rollout = make_rollout()
    url = reverse("admin:ota_rollout_change", args=[rollout.pk])
    make_tasks(rollout, 3)
    few = queries(viewer, url)
    make_tasks(rollout, 57)
    assert queries(viewer, url) == few


def test_the_list_costs_the_same_for_one_and_for_twenty_rollouts(viewer: Client) -> None:
    make_tasks(make_rollout(), 1)
    few = queries(viewer, LIST)
    for _ in range(19):
        make_tasks(make_rollout(), 1)
    assert queries(viewer, LIST) == few


def test_the_list_gives_the_counts_of_each_rollout(viewer: Client) -> None:
    make_rollout(name="Empty")
    rollout = make_rollout(name="Half")
    make_task(rollout=rollout, status=TaskStatus.OK)
    make_task(rollout=rollout)
    text = viewer.get(LIST).content.decode()
    assert "1 of 2 proven (50 %)" in text
    assert 'title="1 proven, 1 pending"' in text
    assert "No tasks" in text


def make_retried(**fields: Any) -> Rollout:
    """Three were proven, and one failed, was retried, and is proven too."""
    rollout = make_rollout(**fields)
    for _ in range(3):
        make_task(rollout=rollout, status=TaskStatus.OK)
    failed = make_failed(rollout)
    (retry,) = rollouts.retry(rollout, timezone.now())
    assert retry.retry_of == failed
    UpgradeTask.objects.move([retry.pk], TaskStatus.OK, timezone.now())
    return rollout


def test_a_rollout_whose_failure_was_retried_and_proven_is_proven_as_a_whole(
    viewer: Client,
) -> None:
    rollout = make_retried()
    shown = page(viewer, rollout)
    assert "4 of 4 proven (100 %); 1 earlier failure was retried" in shown.content.decode()
    parts = {part["name"]: part["count"] for part in shown.context["parts"]}
    assert {name for name, number in parts.items() if number} == {"proven"}
    assert parts["proven"] == shown.context["waves"][0]["tasks"] == 4
    filters = {choice["label"]: choice["count"] for choice in shown.context["filters"]}
    assert (filters["All"], filters["Proven"], filters["Unsuccessful"]) == (5, 4, 1)
    labels = [task["status_label"] for task in shown.context["tasks"]]
    assert labels == ["Proven"] * 3 + ["Failed, retried", "Proven"]


@pytest.mark.parametrize("ends", [False, True])
def test_the_list_counts_what_was_retried_once(viewer: Client, ends: bool) -> None:
    rollout = make_retried(keeps_open=not ends)
    rollouts.finish(timezone.now())
    rollout.refresh_from_db()
    assert (rollout.finished_at is not None) is ends
    shown = viewer.get(LIST).content.decode()
    assert "4 of 4 proven (100 %)" in shown
    assert 'title="4 proven"' in shown


def test_who_watches_hears_of_a_retry_and_of_what_it_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: set[tuple[int, int]] = set()
    monkeypatch.setattr(live, "announce", told.update)
    failed = make_failed()
    (retry,) = rollouts.retry(failed.rollout, timezone.now())
    assert told == {(failed.rollout_id, pk) for pk in (0, failed.pk, retry.pk)}


def test_scripts_get_the_counts_of_all_tasks_also_of_retried_ones() -> None:
    counts = status.counts(make_retried())
    assert (counts["ok"], counts["failed"]) == (4, 1)


def test_who_may_upgrade_cancels_what_was_not_issued(operator: Client) -> None:
    rollout = make_rollout()
    waiting, running = (
        make_task(rollout=rollout),
        make_task(rollout=rollout, status=TaskStatus.SENT),
    )
    assert "no way to stop one" in page(operator, rollout).content.decode()
    assert cancel(operator, rollout).status_code == 302
    assert UpgradeTask.objects.get(pk=waiting.pk).status == TaskStatus.CANCELED
    assert UpgradeTask.objects.get(pk=running.pk).status == TaskStatus.SENT
    assert TaskEvent.objects.get(to_status=TaskStatus.CANCELED).actor is not None
    assert "Called off 1 upgrade that" in page(operator, rollout).content.decode()


def test_who_may_only_look_sees_no_button_and_cannot_cancel(viewer: Client) -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout)
    assert "Cancel what was not issued" not in page(viewer, rollout).content.decode()
    assert cancel(viewer, rollout).status_code == 403
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.PENDING


@pytest.mark.parametrize("deed", ["cancel", "pause", "resume"])
def test_a_link_can_change_nothing(operator: Client, deed: str) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    operator.get(reverse(f"admin:ota_rollout_{deed}", args=[rollout.pk]))
    assert Rollout.objects.get().status == Rollout.Status.RUNNING
    assert UpgradeTask.objects.get().status == TaskStatus.PENDING


@pytest.mark.parametrize("deed", ["cancel", "pause", "resume"])
def test_a_rollout_that_does_not_exist_is_not_found(operator: Client, deed: str) -> None:
    assert operator.post(reverse(f"admin:ota_rollout_{deed}", args=[404])).status_code == 404


def test_who_may_upgrade_pauses_and_resumes(operator: Client) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    assert steer(operator, rollout, "pause").status_code == 302
    rollout.refresh_from_db()
    user = User.objects.get()
    assert (rollout.status, rollout.pause_reason) == ("paused", f"paused by {user}")
    text = page(operator, rollout).content.decode()
    assert f'Nothing is issued: <span data-rollout="pause_reason">paused by {user}' in text
    assert "Not issued while the rollout is paused" in text
    steer(operator, rollout, "resume")
    rollout.refresh_from_db()
    assert (rollout.status, rollout.pause_reason) == ("running", "")
    lines = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
    assert list(lines) == ["Paused.", f"Resumed. It was paused by {user}"]


@pytest.mark.parametrize(("deed", "status"), [("pause", "running"), ("resume", "paused")])
def test_who_may_only_look_cannot_pause_or_resume(viewer: Client, deed: str, status: str) -> None:
    rollout = make_rollout(status=status)
    assert f"/{deed}/" not in page(viewer, rollout).content.decode()
    assert steer(viewer, rollout, deed).status_code == 403
    assert Rollout.objects.get().status == status


@pytest.mark.parametrize("deed", ["pause", "resume"])
@pytest.mark.parametrize("status", ["finished", "canceled"])
def test_what_is_over_is_not_paused_or_resumed(operator: Client, deed: str, status: str) -> None:
    rollout = make_rollout(status=status)
    steer(operator, rollout, deed)
    assert Rollout.objects.get().status == status
    assert not LogEntry.objects.exists()


def test_the_list_says_why_a_rollout_is_paused(viewer: Client) -> None:
    make_rollout(status="paused", pause_reason="package A.zip is damaged: its file is gone.")
    text = viewer.get(LIST).content.decode()
    assert "Paused" in text
    assert "package A.zip is damaged" in text


def test_a_paused_rollout_can_be_canceled(operator: Client) -> None:
    rollout = make_rollout(status="paused", pause_reason="paused by somebody")
    task = make_task(rollout=rollout)
    cancel(operator, rollout)
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.CANCELED
    assert Rollout.objects.get().status == "canceled"


def test_nobody_looks_without_the_permission() -> None:
    rollout = make_rollout()
    assert page(staff(), rollout).status_code == 403
    assert page(Client(), rollout).status_code == 302


def test_nobody_adds_changes_or_deletes_a_rollout(admin_client: Client) -> None:
    rollout = make_rollout(name="November")
    change = reverse("admin:ota_rollout_change", args=[rollout.pk])
    assert admin_client.get(reverse("admin:ota_rollout_add")).status_code == 403
    assert admin_client.post(change, {"name": "Other"}).status_code == 403
    delete = reverse("admin:ota_rollout_delete", args=[rollout.pk])
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    assert Rollout.objects.get(pk=rollout.pk).name == "November"
