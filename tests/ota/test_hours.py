"""The rollout's hours on the clock of a dock's site: when a command may go, and when it is looked at again."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device, Site
from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from ota import rollouts
from ota.models import UpgradeTask
from ota.needs import Reason
from ota.rollouts import InvalidPolicy
from ota.states import TaskStatus
from ota.upgrades import hours, issue
from tests.calls import Run
from tests.make import (
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)
from tests.people import text

pytestmark = pytest.mark.django_db

NIGHT = "daily 22:00-05:00"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[time_machine.Traveller]:
    with time_machine.travel(utc("2026-06-01 12:00"), tick=False) as found:
        monkeypatch.setattr(publisher, "connect", lambda: None)
        monkeypatch.setattr(
            publisher, "publish", lambda messages: [Outcome.CONFIRMED] * len(messages)
        )
        yield found


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def make(zone: str | None = "Europe/Zurich", windows: str = NIGHT, **policy: Any) -> UpgradeTask:
    """A waiting task of a dock at a site in this zone, or nowhere."""
    make_listening()
    organization = make_organization()
    site = zone and Site.objects.create(organization=organization, name=zone, time_zone=zone)
    rollout = make_rollout(windows=windows, **policy)
    return make_task(make_dock(organization=organization, site=site or None), rollout=rollout)


def closed(task: UpgradeTask, at: str) -> Reason | None:
    return hours.closed(task.rollout, task.gateway, utc(at))


def tick() -> None:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251  # the clock is moved
    issue.look_again(now)
    issue.issue(issue.due(now), now)


def test_outside_its_hours_a_task_waits_and_says_when_they_begin() -> None:
    task = make()
    tick()
    task.refresh_from_db()
    assert task.waits_for == [
        {"code": "hours", "text": "the rollout's hours begin again on Mon 2026-06-01 22:00 CEST"}
    ]
    assert task.due_at == utc("2026-06-01 20:00")


def test_a_task_goes_when_its_hours_begin(clock: time_machine.Traveller) -> None:
    task = make()
    tick()
    clock.move_to(utc("2026-06-01 20:00"))
    make_listening()
    type(task.gateway).objects.update(last_seen_at=utc("2026-06-01 20:00"))
    tick()
    task.refresh_from_db()
    assert task.status == TaskStatus.SENT


@pytest.mark.parametrize(("at", "is_open"), [("02:00", True), ("02:15", True), ("02:16", False)])
def test_the_hours_have_to_last_for_the_expected_time(at: str, is_open: bool) -> None:
    task = make(expected_minutes=45)
    assert (closed(task, f"2026-06-02 {at}") is None) == is_open


def administrator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def is_waiting_for_hours(task: UpgradeTask) -> bool:
    tick()
    task.refresh_from_db()
    return "hours" in [reason["code"] for reason in task.waits_for]


def test_a_dock_that_is_put_at_another_site_has_its_hours_at_once() -> None:
    task = make()
    assert is_waiting_for_hours(task)
    owner = Site.objects.get().organization
    there = Site.objects.create(organization=owner, name="There", time_zone="Asia/Sakhalin")
    address = reverse("admin:fleet_device_change", args=[task.gateway_id])
    administrator().post(address, {"callsign": "", "site": there.pk})
    assert not is_waiting_for_hours(task)


def test_a_site_in_another_zone_has_other_hours_at_once() -> None:
    task = make()
    assert is_waiting_for_hours(task)
    site = Site.objects.get()
    address = reverse("admin:fleet_site_change", args=[site.pk])
    form = {"organization": site.organization_id, "name": site.name, "time_zone": "Asia/Sakhalin"}
    administrator().post(address, form)
    assert not is_waiting_for_hours(task)


@pytest.mark.parametrize("by_action", [False, True])
def test_a_site_that_is_gone_leaves_its_docks_the_installations_clock(
    by_action: bool, settings: Settings
) -> None:
    settings.TIME_ZONE = "Asia/Sakhalin"
    task = make()
    assert is_waiting_for_hours(task)
    pk = task.gateway.site_id
    if by_action:
        form = {"action": "delete_selected", "_selected_action": pk, "post": "yes"}
        administrator().post(reverse("admin:fleet_site_changelist"), form)
    else:
        administrator().post(reverse("admin:fleet_site_delete", args=[pk]), {"post": "yes"})
    assert not is_waiting_for_hours(task)


def test_docks_go_by_the_clocks_of_their_own_sites() -> None:
    zurich, denver = make("Europe/Zurich"), make("America/Denver")
    assert not closed(zurich, "2026-06-01 21:00")
    assert hours.opening(denver, utc("2026-06-01 21:00")) == utc("2026-06-02 04:00")


def test_a_dock_without_a_site_goes_by_the_installations_clock() -> None:
    task = make(None)
    assert hours.opening(task, utc("2026-06-01 12:00")) == utc("2026-06-01 22:00")


def test_a_zone_that_nobody_knows_is_named() -> None:
    task = make("Europe/Zurich")
    Site.objects.update(time_zone="Mars/Olympus")
    tick()
    task.refresh_from_db()
    assert "time zone of site Europe/Zurich is not known" in task.waits_for[0]["text"]
    assert hours.opening(UpgradeTask.objects.get(), utc("2026-06-01 12:00")) is None


def test_without_hours_any_time_is_right() -> None:
    assert closed(make(windows=""), "2026-06-01 12:00") is None


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-03-28 12:00", "2026-03-28 21:00"),  # 22:00 in winter
        ("2026-03-29 12:00", "2026-03-29 20:00"),  # 22:00 in summer
        ("2026-10-24 12:00", "2026-10-24 20:00"),
        ("2026-10-25 12:00", "2026-10-25 21:00"),
    ],
)
def test_on_the_days_on_which_the_clocks_change_the_wall_decides(now: str, opens: str) -> None:
    assert hours.opening(make(), utc(now)) == utc(opens)


def test_an_hour_that_is_skipped_shortens_the_night() -> None:
    # 22:00 to 05:00 are six hours: of 01:00 UTC two are left, of 02:00 one.
    task = make(expected_minutes=120)
    assert not closed(task, "2026-03-29 01:00")
    assert closed(task, "2026-03-29 01:01")


def test_an_hour_that_comes_twice_lengthens_the_night() -> None:
    task = make(expected_minutes=8 * 60)
    assert not closed(task, "2026-10-24 20:00")
    assert closed(task, "2026-10-24 20:01")


def test_before_its_start_and_outside_its_hours_a_task_is_looked_at_when_both_are_over() -> None:
    task = make(starts_at=utc("2026-06-01 21:30"))
    tick()
    task.refresh_from_db()
    assert {reason["code"] for reason in task.waits_for} == {"not_started", "hours"}
    assert task.due_at == utc("2026-06-01 21:30")


def test_a_command_that_was_chosen_before_the_deadline_does_not_leave_after_it(
    clock: time_machine.Traveller,
) -> None:
    task = make(windows="", deadline_at=utc("2026-06-01 12:01"))
    issue.look_again(utc("2026-06-01 12:00"))
    assert issue.issue([task.pk], utc("2026-06-01 12:01")) == 0
    task.refresh_from_db()
    assert task.status == TaskStatus.CANCELED
    assert "not sent by the deadline" in task.message


def test_a_deadline_that_has_passed_is_told_on_the_clock_of_this_installation() -> None:
    rollout = make(deadline_at=utc("2026-06-01 12:00")).rollout
    with timezone.override("Europe/Zurich"):
        told = hours.overdue(rollout, utc("2026-06-01 12:00"))
    assert told == "not sent by the deadline, 2026-06-01 14:00 CEST"


def test_a_deadline_before_the_hours_open_is_refused_where_it_is_chosen() -> None:
    task = make("America/Denver")  # 06:00 there
    now, dock = utc("2026-06-01 12:00"), Device.objects.filter(pk=task.gateway_id)
    make_package()
    task.rollout.tasks.update(status=TaskStatus.OK)
    options = rollouts.Options(deadline_at=utc("2026-06-02 04:00"), policy={"windows": NIGHT})
    with pytest.raises(InvalidPolicy, match="nothing would ever start") as refused:
        rollouts.plan(dock, options, now)
    assert refused.value.field == "deadline_at"
    later = options._replace(deadline_at=utc("2026-06-02 04:01"))
    assert rollouts.plan(dock, later, now).tasks


def test_hours_that_do_not_open_before_the_deadline_are_refused_while_it_runs() -> None:
    task, now = make(deadline_at=utc("2026-06-01 21:00")), utc("2026-06-01 12:00")
    with pytest.raises(InvalidPolicy, match="nothing would ever start"):
        rollouts.change(task.rollout, {"windows": "daily 23:30-05:00"}, now)
    assert rollouts.change(task.rollout, {"windows": "daily 22:30-05:00"}, now)


def test_a_site_whose_zone_nobody_knows_is_no_reason_to_refuse_a_deadline() -> None:
    task, now = make("Atlantis/Capital"), utc("2026-06-01 12:00")
    assert rollouts.change(task.rollout, {"deadline_at": utc("2026-06-01 13:00")}, now)


# The plan says what the tasks will say


def make_docks(*zones: str) -> list[Device]:
    """Docks that need an upgrade, each at a site in one of the zones."""
    make_listening()
    make_package()
    owner = make_organization()
    sites = [Site.objects.create(organization=owner, name=z, time_zone=z) for z in zones]
    return [make_dock(organization=owner, site=site, sn=site.name) for site in sites]


def test_a_plan_tells_of_the_hours_what_each_task_tells_after_the_start() -> None:
    make_docks("Europe/Zurich", "America/New_York", "Pacific/Auckland", "Atlantis/Capital")
    make_dock(sn="Nowhere", organization=Site.objects.all()[0].organization)
    now = utc("2026-06-01 12:00")
    options = rollouts.Options(policy={"windows": NIGHT}, deadline_at=utc("2026-06-01 21:00"))
    plan = rollouts.plan(Device.objects.all(), options, now)
    told = {task.gateway.sn: [r.as_json() for r in task.waits_for] for task in plan.tasks}
    assert {sn: [reason["code"] for reason in reasons] for sn, reasons in told.items()} == {
        "Europe/Zurich": ["hours"],
        "America/New_York": ["hours"],
        "Pacific/Auckland": [],
        "Atlantis/Capital": ["no_hours"],
        "Nowhere": ["hours"],
    }
    assert plan.too_late == 3
    rollouts.launch(Device.objects.all(), options, now)
    issue.look_again(now)
    tasks = UpgradeTask.objects.select_related("gateway")
    assert {task.gateway.sn: task.waits_for for task in tasks} == told


def test_a_plan_looks_at_the_hours_at_its_start() -> None:
    make_docks("Europe/Zurich")
    options = rollouts.Options(policy={"windows": NIGHT}, starts_at=utc("2026-06-01 20:00"))
    [task] = rollouts.plan(Device.objects.all(), options, utc("2026-06-01 12:00")).tasks
    assert not task.waits_for


def test_a_preview_warns_of_docks_whose_hours_begin_after_the_deadline() -> None:
    make_docks("Europe/Zurich", "Pacific/Auckland")
    choices = {
        "query": "",
        "limit_in_flight": "5",
        "windows": NIGHT,
        "deadline_at": "2026-06-01T15:00",
    }
    client = administrator()
    page = text(client.get("/admin/fleet/device/upgrade/", choices))
    assert "1 dock has no hours before the deadline and would be canceled." in page
    assert "Outside the hours · 1" in page
    later = choices | {"deadline_at": "2026-06-01T20:01"}
    assert "would be canceled" not in text(client.get("/admin/fleet/device/upgrade/", later))


def test_a_preview_does_not_say_that_a_dock_begins_whose_sites_zone_is_unknown() -> None:
    make_docks("Atlantis/Capital", "Europe/Zurich")
    choices = {"query": "", "limit_in_flight": "5", "windows": NIGHT}
    page = text(administrator().get("/admin/fleet/device/upgrade/", choices))
    assert "The first wave can begin on Mon 2026-06-01 22:00 CEST" in page


def test_the_command_says_how_many_docks_the_deadline_would_cancel(run: Run) -> None:
    make_docks("Europe/Zurich", "Pacific/Auckland")
    given = ["--all", "--windows", NIGHT, "--deadline", "2026-06-01T15:00Z", "--dry-run"]
    assert run.answer("start_upgrade", *given)["too_late"] == 1
    run("start_upgrade", *given)
    assert "1 dock has no hours before the deadline and would be canceled." in run.out


def test_hours_cost_a_plan_no_query_however_many_sites_there_are(
    django_assert_max_num_queries: Any,
) -> None:
    now, costs = utc("2026-06-01 12:00"), []
    make_docks("Europe/Zurich")
    owner = Site.objects.get().organization
    options = rollouts.Options(policy={"windows": NIGHT}, deadline_at=utc("2026-06-02 12:00"))
    for number in (1, 9):
        for n in range(number):
            site = Site.objects.create(organization=owner, name=f"{number}.{n}", time_zone="UTC")
            make_dock(organization=owner, site=site)
        with django_assert_max_num_queries(40) as queries:
            rollouts.plan(Device.objects.all(), options, now)
        costs.append(len(queries))
    assert costs[0] == costs[1]
