"""What a rollout would do, starting it, canceling it, and its end."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from fleet.models import Device, Site
from fleet.versions import InvalidVersion
from ota import rollouts
from ota.models import OrganizationPolicy, Rollout, UpgradeTask
from ota.rollouts import NothingToUpgrade, Options, Plan, PlanChanged, launching
from ota.states import TaskStatus
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)

pytestmark = pytest.mark.django_db

NIGHT = {"windows": "daily 22:00-05:00"}


@pytest.fixture(autouse=True)
def library() -> None:
    make_listening()
    make_package()


def plan(**options: Any) -> Plan:
    return rollouts.plan(Device.objects.all(), Options(**options), timezone.now())


def launch(**options: Any) -> tuple[Rollout, Plan]:
    return rollouts.launch(Device.objects.all(), Options(**options), timezone.now())


def test_a_dock_and_its_aircraft_share_one_task_with_the_aircraft_first() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    (task,) = plan().tasks
    assert [target.device for target in task.targets] == [aircraft, dock]


def test_the_device_that_needs_nothing_is_left_out_of_the_task() -> None:
    dock = make_dock(NEW)
    aircraft = make_aircraft(dock)
    found = plan()
    assert [target.device for target in found.tasks[0].targets] == [aircraft]
    assert [(e.device, e.reason.code) for e in found.excluded] == [(dock, "up_to_date")]


def test_aircraft_of_chosen_docks_come_along_if_asked_for() -> None:
    dock = make_dock()
    make_aircraft(dock)
    chosen, now = Device.objects.filter(pk=dock.pk), timezone.now()
    alone = rollouts.plan(chosen, Options(), now)
    both = rollouts.plan(chosen, Options(with_aircraft=True), now)
    assert (len(alone.tasks[0].targets), len(both.tasks[0].targets)) == (1, 2)


def test_the_plan_as_scripts_get_it() -> None:
    dock = make_dock(mode_code=4)
    assert plan().as_json() == {
        "tasks": [
            {
                "gateway_sn": dock.sn,
                "wave": 1,
                "targets": [
                    {
                        "sn": dock.sn,
                        "upgrade_type": "regular",
                        "from_version": OLD,
                        "to_version": NEW,
                    }
                ],
                "waits_for": [{"code": "busy", "text": "the dock is working"}],
            }
        ],
        "excluded": [],
        "waves": [{"number": 1, "title": "", "docks": 1}],
        "needs_approval": False,
        "stays_open": False,
        "joining_get": [],
        "too_late": 0,
    }


def test_a_rollout_without_a_name_is_called_by_the_clock_of_this_installation() -> None:
    make_dock()
    now = dt.datetime(2026, 6, 29, 22, 30, tzinfo=dt.UTC)
    with timezone.override("Europe/Zurich"):
        rollout, _ = rollouts.launch(Device.objects.all(), Options(), now)
    assert rollout.name == "Upgrade of 2026-06-30 00:30 CEST"


def test_a_launch_does_what_the_plan_said() -> None:
    dock = make_dock()
    make_aircraft(dock)
    planned = plan()
    rollout, started = launch(name="Spring", policy={"limit_in_flight": 3})
    assert started.tasks == planned.tasks
    assert rollout.limit_in_flight == 3
    task = rollout.tasks.get()
    assert (task.status, task.gateway) == (TaskStatus.PENDING, dock)
    assert {t.device.sn: t.to_version for t in task.targets.all()} == {
        target.device.sn: NEW for target in planned.tasks[0].targets
    }


def test_a_launch_remembers_its_author() -> None:
    make_dock()
    author = User.objects.create_user("olga")
    rollout, _ = rollouts.launch(Device.objects.all(), Options(), timezone.now(), author)
    assert rollout.created_by == author
    assert rollout.tasks.get().events.get().actor == author


def test_with_nothing_to_upgrade_there_is_no_rollout() -> None:
    make_dock(NEW)
    with pytest.raises(NothingToUpgrade):
        launch()
    assert not Rollout.objects.exists()


def test_a_version_that_is_none_is_refused() -> None:
    make_dock()
    with pytest.raises(InvalidVersion, match="expected NN"):
        launch(to="latest")


def test_the_database_refuses_a_second_open_task_of_a_dock_that_was_planned_before() -> None:
    dock = make_dock()
    planned = plan()
    make_task(dock)
    rollout = Rollout.objects.create(name="Late")
    started = launching._store(rollout, planned, None, timezone.now(), None)
    assert [(e.device, e.reason.code) for e in started.excluded] == [(dock, "open_task")]
    assert not rollout.tasks.exists()


def test_canceling_ends_what_was_not_issued_and_leaves_the_rest() -> None:
    rollout = make_rollout()
    waiting, running = (
        make_task(rollout=rollout),
        make_task(rollout=rollout, status=TaskStatus.SENT),
    )
    assert rollouts.cancel(rollout, timezone.now()) == 1
    statuses = dict(UpgradeTask.objects.values_list("pk", "status"))
    assert statuses == {waiting.pk: TaskStatus.CANCELED, running.pk: TaskStatus.SENT}


def test_canceling_twice_changes_nothing_more() -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    assert [rollouts.cancel(rollout, timezone.now()) for _ in range(2)] == [1, 0]


def test_a_command_that_comes_back_unanswered_to_a_canceled_rollout_does_not_go_out_again() -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout, status=TaskStatus.SENT)
    rollouts.cancel(rollout, timezone.now())
    UpgradeTask.objects.move([task.pk], TaskStatus.PENDING, timezone.now())
    rollouts.finish(timezone.now())
    task.refresh_from_db()
    assert (task.status, task.message) == (TaskStatus.TIMEOUT, "not sent again: canceled")
    assert Rollout.objects.get().finished_at


def test_a_rollout_is_finished_when_its_last_task_has_ended() -> None:
    rollout = make_rollout()
    task = make_task(rollout=rollout, status=TaskStatus.VERIFYING)
    rollouts.finish(timezone.now())
    assert Rollout.objects.get().status == Rollout.Status.RUNNING
    UpgradeTask.objects.move([task.pk], TaskStatus.OK, timezone.now())
    rollouts.finish(timezone.now())
    ended = Rollout.objects.get()
    assert (ended.status, ended.final_counts) == (Rollout.Status.FINISHED, {"ok": 1})


@pytest.mark.parametrize("number", [3, 500])
def test_plan_and_launch_take_few_queries_however_many_devices(
    number: int, django_assert_max_num_queries: Any
) -> None:
    organization = make_organization()
    docks = [make_dock(organization=organization) for _ in range(number)]
    template = make_aircraft(docks[0])
    aircraft = [
        Device(
            sn=f"A{dock.sn}", gateway=dock, model=template.model, organization=organization,
            firmware_version=OLD, firmware_number=10011607,
        )
        for dock in docks[1:]
    ]  # fmt: skip
    Device.objects.bulk_create(aircraft)
    with django_assert_max_num_queries(30):
        assert plan(policy=NIGHT).digest
    with django_assert_max_num_queries(30):
        rollout, _ = launch()
    assert rollout.tasks.count() == number


@pytest.mark.parametrize(("docks", "looks"), [(1, 0), (2, 2)])
def test_after_a_large_launch_the_database_looks_how_much_there_is(
    docks: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "MANY", 2)
    organization = make_organization()
    for _ in range(docks):
        make_dock(organization=organization)
    with CaptureQueriesContext(connection) as queries:
        launch()
    assert sum(query["sql"].startswith("ANALYZE") for query in queries) == looks


def test_what_was_not_seen_is_not_started() -> None:
    make_dock()
    seen = plan().digest
    make_dock()
    with pytest.raises(PlanChanged):
        rollouts.launch(Device.objects.all(), Options(), timezone.now(), seen=seen)
    assert not Rollout.objects.exists()


def test_what_was_seen_is_started_though_a_dock_became_busy() -> None:
    dock = make_dock()
    seen = plan().digest
    Device.objects.filter(pk=dock.pk).update(mode_code=4)
    rollout, _ = rollouts.launch(Device.objects.all(), Options(), timezone.now(), seen=seen)
    assert rollout.tasks.count() == 1


def overtake(monkeypatch: pytest.MonkeyPatch, dock: Device) -> None:
    """Somebody else's rollout takes a dock after the plan was made and before its rows are stored."""
    make = launching._rollout

    def overtaken(*args: Any) -> Rollout:
        make_task(dock)
        return make(*args)

    monkeypatch.setattr(launching, "_rollout", overtaken)


@pytest.mark.parametrize("others", [0, 1])
def test_what_was_seen_is_not_started_without_a_dock_that_another_rollout_took_meanwhile(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot = make_dock()
    for _ in range(others):
        make_dock()
    options = Options(pilot=[pilot.sn])
    seen = rollouts.plan(Device.objects.all(), options, timezone.now()).digest
    overtake(monkeypatch, pilot)
    with pytest.raises(PlanChanged):
        rollouts.launch(Device.objects.all(), options, timezone.now(), seen=seen)
    assert not Rollout.objects.exists()


def test_where_nobody_has_seen_a_plan_a_dock_that_another_rollout_took_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, other = make_dock(), make_dock()
    overtake(monkeypatch, taken)
    rollout, started = launch()
    assert [task.gateway for task in rollout.tasks.all()] == [other]
    assert [(e.device, e.reason.code) for e in started.excluded] == [(taken, "open_task")]


def test_that_an_upgrade_has_become_a_downgrade_is_seen_before_it_starts() -> None:
    dock = make_dock()
    seen = plan(allow_downgrade=True).digest
    Device.objects.filter(pk=dock.pk).update(
        firmware_version="10.01.9999", firmware_number=10019999
    )
    options = Options(allow_downgrade=True)
    with pytest.raises(PlanChanged):
        rollouts.launch(Device.objects.all(), options, timezone.now(), seen=seen)
    assert plan(allow_downgrade=True).digest != seen


def at_a_site(zone: str = "Europe/Zurich") -> Site:
    acme = make_organization()
    site = Site.objects.create(organization=acme, name="Roof", time_zone=zone)
    make_dock(organization=acme, site=site)
    return site


def test_on_which_clock_the_hours_hold_is_seen_before_it_starts() -> None:
    site = at_a_site()
    seen = plan(policy=NIGHT).digest
    Site.objects.filter(pk=site.pk).update(time_zone="Asia/Tokyo")
    options = Options(policy=NIGHT)
    with pytest.raises(PlanChanged):
        rollouts.launch(Device.objects.all(), options, timezone.now(), seen=seen)


def test_without_hours_no_clock_decides_on_the_start() -> None:
    site = at_a_site()
    seen = plan().digest
    Site.objects.filter(pk=site.pk).update(time_zone="Asia/Tokyo")
    assert plan().digest == seen


@pytest.mark.parametrize("policy", [{"windows": "Sat 00:00-24:00"}, {"expected_minutes": 90}])
def test_when_the_first_wave_may_begin_is_seen_before_it_starts(policy: dict[str, Any]) -> None:
    at_a_site()
    assert plan(policy=NIGHT | policy).digest != plan(policy=NIGHT).digest


def test_another_start_is_another_plan() -> None:
    make_dock()
    soon = timezone.now() + dt.timedelta(hours=1)
    digests = {plan(starts_at=at).digest for at in (None, soon, soon + dt.timedelta(hours=1))}
    assert len(digests) == 3


@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, 0)])
def test_whether_a_second_person_is_asked_is_seen_before_it_starts(before: int, after: int) -> None:
    owner = make_dock().organization
    assert owner
    OrganizationPolicy.objects.create(organization=owner, approval_above=before)
    seen = plan().digest
    OrganizationPolicy.objects.update(approval_above=after)
    user, now = User.objects.create_user("anna"), timezone.now()
    with pytest.raises(PlanChanged):
        rollouts.launch(Device.objects.all(), Options(), now, user, seen)
    rollouts.launch(Device.objects.all(), Options(), now, user, plan().digest)


def test_each_site_is_a_wave_and_docks_that_stand_nowhere_go_last() -> None:
    acme = make_organization()
    for name in ("Roof", "Harbour"):
        site = Site.objects.create(organization=acme, name=name)
        make_dock(organization=acme, site=site)
    make_dock(organization=acme)
    make_dock(organization=acme, site=Site.objects.get(name="Roof"))
    found = plan(policy={"waves": "sites"}).waves
    assert found == [("Harbour", 1), ("Roof", 2), ("no site", 1)]


def test_sites_of_one_name_are_waves_of_their_own_that_tell_whose_they_are() -> None:
    for name in ("Zeta", "Acme"):
        owner = make_organization(name=name)
        make_dock(organization=owner, site=Site.objects.create(organization=owner, name="Roof"))
        make_dock(organization=owner, site=Site.objects.create(organization=owner, name=name))
    waves = plan(policy={"waves": "sites"}).waves
    titles = ["Acme", "Roof of Acme", "Roof of Zeta", "Zeta"]
    assert waves == [(title, 1) for title in titles]


def test_a_wave_of_a_site_with_long_names_is_cut_to_what_can_be_kept() -> None:
    for name in ("Acme" * 50, "Zeta" * 50):
        owner = make_organization(name=name)
        make_dock(organization=owner, site=Site.objects.create(organization=owner, name="Roof"))
    rollout, _ = launch(policy={"waves": "sites"})
    assert [len(wave.title) for wave in rollout.wave_set.all()] == [200, 200]


@pytest.mark.parametrize("sites", [2, 9])
def test_waves_by_site_cost_the_same_for_few_and_for_many(
    sites: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(sites):
        owner = make_organization()
        make_dock(organization=owner, site=Site.objects.create(organization=owner, name="Roof"))
    with django_assert_num_queries(12):
        plan(policy={"waves": "sites"})


# Pausing


def test_a_paused_rollout_is_not_running_and_pauses_once() -> None:
    rollout = make_rollout()
    now = timezone.now()
    assert rollouts.pause(rollout, now, reason="a reason")
    assert not rollouts.pause(rollout, now, reason="another reason")
    rollout.refresh_from_db()
    assert (rollout.status, rollout.pause_reason) == ("paused", "a reason")


def test_what_waits_is_looked_at_anew_after_a_pause() -> None:
    rollout = make_rollout(status="paused")
    task = make_task(rollout=rollout, is_ready=True, checked_at=timezone.now())
    assert rollouts.resume(rollout, timezone.now())
    task.refresh_from_db()
    assert (task.is_ready, task.checked_at) == (False, None)
    assert not rollouts.resume(rollout, timezone.now())


def test_a_paused_rollout_whose_tasks_have_ended_is_finished() -> None:
    rollout = make_rollout(status="paused", pause_reason="a reason")
    task = make_task(rollout=rollout, status=TaskStatus.IN_PROGRESS)
    rollouts.finish(timezone.now())
    assert Rollout.objects.get().status == Rollout.Status.PAUSED
    UpgradeTask.objects.filter(pk=task.pk).update(status=TaskStatus.OK)
    rollouts.finish(timezone.now())
    assert Rollout.objects.get().status == Rollout.Status.FINISHED


def test_docks_of_two_organizations_follow_the_policy_of_neither() -> None:
    organization = make_organization()
    mine, other = make_dock(organization=organization), make_dock()
    OrganizationPolicy.objects.create(organization=organization, windows="Mon 01:00-05:00")
    make_package()
    now = timezone.now()
    both = rollouts.plan(Device.objects.filter(pk__in=[mine.pk, other.pk]), Options(), now)
    alone = rollouts.plan(Device.objects.filter(pk=mine.pk), Options(), now)
    assert (both.policy["windows"], alone.policy["windows"]) == ("", "Mon 01:00-05:00")
