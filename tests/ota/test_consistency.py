"""Consistency upgrades that the system starts by itself: where, when, and where not."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.models import Device, Organization, Site
from ota import rollouts
from ota.models import OrganizationPolicy, Rollout, UpgradeTask
from ota.rollouts import consistency
from ota.states import PackageState, RolloutStatus, TaskStatus
from ota.upgrades import issue
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_task,
)
from tests.people import make_person

pytestmark = [pytest.mark.django_db, pytest.mark.everywhere]

NEWER = "10.02.0000"
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


@pytest.fixture
def acme() -> Organization:
    """An organization that lets the system start consistency upgrades at any hour."""
    make_listening()
    make_package()
    return let(make_organization(name="Acme"))


def let(organization: Organization, **policy: Any) -> Organization:
    OrganizationPolicy.objects.create(
        organization=organization, **{"starts_consistency": True} | policy
    )
    return organization


def make_asking(organization: Organization, **fields: Any) -> Device:
    """A dock with the newest version that says a module does not match."""
    asking: dict[str, Any] = {"version": NEW, "compatible_status": 1}
    return make_dock(**asking | {"organization": organization} | fields)


def started(now: dt.datetime) -> list[Rollout]:
    before = set(Rollout.objects.values_list("pk", flat=True))
    consistency.start(now)
    return list(Rollout.objects.exclude(pk__in=before).order_by("pk"))


def docks(rollout: Rollout) -> set[Device]:
    return {task.gateway for task in rollout.tasks.all()}


# Where and when


def test_an_organization_with_a_long_name_from_before_in_two_lines_is_upgraded_too(
    acme: Organization, now: Any
) -> None:
    Organization.objects.update(name="Acme\n" + "x" * 190)
    asking = make_asking(acme)
    (rollout,) = started(now)
    assert docks(rollout) == {asking}
    assert rollout.name.startswith("Consistency upgrades of Acme xxx")


def test_what_asks_for_it_is_upgraded_by_the_system(acme: Organization, now: Any) -> None:
    asking, other = make_asking(acme), make_asking(acme)
    make_dock(NEW, organization=acme)
    (rollout,) = started(now)
    assert docks(rollout) == {asking, other}
    assert {
        target.upgrade_type for task in rollout.tasks.all() for target in task.targets.all()
    } == {"consistency"}
    assert rollout.name.startswith("Consistency upgrades of Acme, ")
    assert (rollout.is_automatic, rollout.created_by, rollout.keeps_open) == (True, None, False)
    first = rollout.events.order_by("pk")[0]
    assert (first.actor, first.text) == (None, "by the system: 2 docks in 1 wave")


def test_it_is_off_unless_the_organization_lets_it(acme: Organization, now: Any) -> None:
    make_asking(make_organization())
    unsure = make_organization()
    OrganizationPolicy.objects.create(organization=unsure)
    make_asking(unsure)
    assert started(now) == []


def test_it_starts_inside_the_hours_only(now: Any) -> None:
    make_listening()
    make_package()
    night = let(make_organization(), windows="daily 22:00-05:00")
    zurich = Site.objects.create(organization=night, name="Z", time_zone="Europe/Zurich")
    make_asking(night, site=zurich)
    assert started(dt.datetime(2026, 7, 1, 19, 59, tzinfo=dt.UTC)) == []
    (rollout,) = started(dt.datetime(2026, 7, 1, 20, 0, tzinfo=dt.UTC))
    assert rollout.windows == "daily 22:00-05:00"


def test_each_organization_has_its_own_with_its_own_policy(acme: Organization, now: Any) -> None:
    other = let(make_organization(), limit_in_flight=2)
    make_asking(acme)
    theirs = make_asking(other)
    _, second = started(now)
    assert docks(second) == {theirs}
    assert second.limit_in_flight == 2


def test_what_asks_within_the_hour_goes_with_the_next(acme: Organization, now: Any) -> None:
    make_asking(acme)
    assert len(started(now)) == 1
    late = make_asking(acme)
    assert started(now + HOUR / 2) == []
    (rollout,) = started(now + HOUR)
    assert docks(rollout) == {late}


def test_two_at_once_start_one(acme: Organization, now: Any) -> None:
    policy = OrganizationPolicy.objects.select_related("organization").get()
    for seen_by_one_of_them in (make_asking(acme), make_asking(acme)):
        consistency._start(policy, [seen_by_one_of_them], now)
    assert UpgradeTask.objects.count() == Rollout.objects.count() == 1


def test_above_the_limit_a_second_person_decides_and_a_denial_holds(now: Any) -> None:
    make_listening()
    make_package()
    make_asking(let(make_organization(), approval_above=0))
    (rollout,) = started(now)
    assert rollout.status == RolloutStatus.NEEDS_APPROVAL
    assert started(now + HOUR) == []
    rollouts.deny(rollout, now, make_person("Administrators"))
    assert started(now + 2 * HOUR) == []


# Regular goes first


def test_never_where_a_newer_version_is_to_be_had(acme: Organization, now: Any) -> None:
    make_asking(acme, version=OLD)
    make_package(OLD)
    assert started(now) == []


def test_never_while_a_newer_version_is_only_being_checked_again(
    acme: Organization, now: Any
) -> None:
    make_asking(acme)
    make_package(NEWER, state=PackageState.CHECKING)
    assert started(now) == []


def test_a_draft_is_no_newer_version(acme: Organization, now: Any) -> None:
    make_asking(acme)
    make_package(NEWER, state=PackageState.DRAFT)
    assert len(started(now)) == 1


def test_never_without_the_package_of_its_version(acme: Organization, now: Any) -> None:
    make_asking(acme, version="10.01.9999")
    assert started(now) == []


def test_an_aircraft_waits_for_the_regular_upgrade_of_its_dock(
    acme: Organization, now: Any
) -> None:
    dock = make_dock(OLD, organization=acme)
    aircraft = make_aircraft(dock, NEW, compatible_status=1)
    assert started(now) == []
    Device.objects.filter(pk=dock.pk).update(firmware_version=NEW, firmware_number=10_013_205)
    (rollout,) = started(now)
    assert rollout.tasks.get().targets.get().device == aircraft


def test_what_waits_gives_way_to_a_newer_version(acme: Organization, now: Any) -> None:
    make_asking(acme, mode_code=4)
    (rollout,) = started(now)
    issue.look_again(now)
    assert rollout.tasks.get().status == TaskStatus.PENDING
    make_package(NEWER)
    Device.objects.update(mode_code=0)
    assert issue.issue([rollout.tasks.get().pk], now) == 0
    task = rollout.tasks.get()
    assert task.status == TaskStatus.CANCELED
    assert "a regular upgrade goes first" in task.message


def test_what_an_operator_started_does_not_give_way(acme: Organization, now: Any) -> None:
    dock = make_asking(acme, mode_code=4)
    options = rollouts.Options(to=NEW)
    rollout, _ = rollouts.launch(Device.objects.filter(pk=dock.pk), options, now)
    make_package(NEWER)
    issue.look_again(now)
    assert rollout.tasks.get().status == TaskStatus.PENDING


# Not in circles


def test_a_dock_that_failed_waits_for_somebody(acme: Organization, now: Any) -> None:
    dock = make_asking(acme)
    earlier = now - dt.timedelta(days=30)
    failed = make_task(dock, status=TaskStatus.FAILED, finished_at=earlier)
    assert started(now) == []
    rollouts.dismiss(failed.rollout, now)
    assert len(started(now)) == 1


@pytest.mark.parametrize("status", [TaskStatus.OK, TaskStatus.CANCELED, TaskStatus.FAILED])
def test_a_dock_rests_for_a_week_however_it_ended(
    acme: Organization, now: Any, status: TaskStatus
) -> None:
    make_asking(acme)
    (rollout,) = started(now)
    rollout.tasks.update(status=status, finished_at=now, resolved_at=now)
    assert started(now + dt.timedelta(days=6, hours=23)) == []
    assert len(started(now + dt.timedelta(days=7, hours=1))) == 1


def test_a_dock_with_another_open_upgrade_is_left_to_it(acme: Organization, now: Any) -> None:
    make_task(make_asking(acme))
    assert started(now) == []


# What it costs


def cost(now: dt.datetime) -> int:
    with CaptureQueriesContext(connection) as found:
        consistency.start(now)
    return len(found)


def test_a_look_costs_the_same_for_one_organization_and_for_many(now: Any) -> None:
    """While the hours are closed all docks are looked at, and nothing is started."""
    make_listening()
    make_package()
    at = dt.datetime(2026, 7, 1, 12, 0, tzinfo=dt.UTC)
    make_asking(let(make_organization(), windows="daily 22:00-05:00"))
    few = cost(at)
    for _ in range(4):
        organization = let(make_organization(), windows="daily 22:00-05:00")
        for _ in range(5):
            make_asking(organization)
    assert cost(at) == few
    OrganizationPolicy.objects.update(starts_consistency=False)
    assert cost(at) == 1
