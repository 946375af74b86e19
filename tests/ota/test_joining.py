"""Rollouts that stay open: who joins them, with which version, and how they end."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.models import Device, DeviceModel, Organization, Site
from ota import needs, rollouts
from ota.models import Criterion, FirmwarePackage, OrganizationPolicy, Rollout, UpgradeTask
from ota.models.rollouts import RolloutEvent
from ota.rollouts import InvalidPolicy, Options, joining
from ota.states import RolloutStatus, TaskStatus
from tests.make import (
    NEW,
    OLD,
    make_aircraft,
    make_device,
    make_dock,
    make_listening,
    make_model,
    make_organization,
    make_package,
    make_task,
)
from tests.people import make_person

pytestmark = [pytest.mark.django_db, pytest.mark.everywhere]

NEWER = "10.02.0000"
Kind = RolloutEvent.Kind


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


@pytest.fixture
def acme() -> Organization:
    make_listening()
    make_package()
    return make_organization(name="Acme")


def launch(
    owner: Organization,
    now: dt.datetime,
    criterion: Criterion | None = None,
    user: User | None = None,
    **options: Any,
) -> Rollout:
    """A rollout for the present docks of an organization that stays open for its later ones."""
    policy = {"keeps_open": True} | options.pop("policy", {})
    by = criterion or Criterion(organization=owner)
    chosen = Options(policy=policy, criteria=[by], **options)
    first = Device.objects.filter(pk=make_dock(organization=owner).pk)
    return rollouts.launch(first, chosen, now, user)[0]


def joined(rollout: Rollout) -> list[Device]:
    """The docks that the rollout did not begin with, after a look."""
    first = rollout.tasks.order_by("pk").values_list("pk", flat=True)[0]
    rollouts.join(timezone.now())
    return [task.gateway for task in rollout.tasks.exclude(pk=first).order_by("pk")]


def end_all(rollout: Rollout, status: TaskStatus = TaskStatus.OK) -> None:
    ended = {"status": status, "finished_at": timezone.now()}
    rollout.tasks.update(**ended)


# Who joins


def test_a_dock_that_comes_to_match_joins_the_last_wave(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now, policy={"waves": "1, rest"}, pilot=())
    extra = make_dock(organization=acme)
    assert joined(rollout) == [extra]
    task = UpgradeTask.objects.get(gateway=extra)
    assert (task.wave, task.organization) == (rollout.wave_set.last(), acme)
    target = task.targets.get()
    assert (target.from_version, target.to_version) == (OLD, NEW)
    line = rollout.events.get(kind=Kind.JOINED)
    assert (line.actor, line.text) == (None, f"1 dock joined wave 1: {extra.sn}")
    assert "came to match" in task.events.get().text


def test_the_list_is_fixed_unless_it_was_kept_open(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now, policy={"keeps_open": False})
    make_dock(organization=acme)
    assert joined(rollout) == []


def test_a_dock_joins_only_what_it_matches(acme: Organization, now: Any) -> None:
    roof = Site.objects.create(organization=acme, name="Roof")
    rollout = launch(acme, now, Criterion(model=make_model("3-2-0"), site=roof))
    make_dock(organization=acme)  # at no site
    make_dock()  # of another organization
    make_device("3-3-0", organization=acme, site=roof)
    fits = make_dock(organization=acme, site=roof)
    assert joined(rollout) == [fits]


@pytest.mark.parametrize(("need", "joins"), [("regular", 1), ("consistency", 0), ("", 1)])
def test_a_list_by_need_stays_one(acme: Organization, now: Any, need: str, joins: int) -> None:
    rollout = launch(acme, now, Criterion(organization=acme, need=need))
    make_dock(organization=acme)
    assert len(joined(rollout)) == joins


def test_a_consistency_upgrade_joins_too(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    swapped = make_dock(NEW, organization=acme, compatible_status=1)
    make_dock(NEW, organization=acme)
    assert joined(rollout) == [swapped]
    assert UpgradeTask.objects.get(gateway=swapped).targets.get().upgrade_type == "consistency"


def test_aircraft_join_with_docks_that_were_chosen_with_theirs(
    acme: Organization, now: Any
) -> None:
    dock_2 = Criterion(model=make_model("3-2-0"))
    rollout = launch(acme, now, dock_2, with_aircraft=True)
    extra = make_dock(organization=acme)
    aircraft = make_aircraft(extra)
    assert joined(rollout) == [extra]
    targets = UpgradeTask.objects.get(gateway=extra).targets
    assert [target.device for target in targets.order_by("pk")] == [aircraft, extra]


def test_aircraft_stay_out_where_docks_alone_were_chosen(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now, Criterion(model=make_model("3-2-0")))
    aircraft = make_aircraft(make_dock(organization=acme))
    joined(rollout)
    assert not aircraft.upgrades.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"organization": None},
        {"firmware_version": "", "firmware_number": None},
        {"firmware_version": "?", "firmware_number": 0},
        {"firmware_version": NEWER, "firmware_number": 10_020_000},
        {"firmware_version": NEW, "firmware_number": 10_013_205},
    ],
)
def test_what_a_rollout_leaves_out_does_not_join(
    acme: Organization, now: Any, fields: dict[str, Any]
) -> None:
    rollout = launch(acme, now, Criterion(model=make_model("3-2-0")))
    make_dock(**{"organization": acme} | fields)
    assert joined(rollout) == []


def test_who_needs_another_version_first_does_not_join(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    package = rollout.tasks.get().targets.get().package
    package.minimum_version = "10.01.2000"
    package.save()
    make_dock(organization=acme)
    assert joined(rollout) == []


def test_what_is_newer_in_the_library_than_the_launch_is_not_given(
    acme: Organization, now: Any
) -> None:
    rollout = launch(acme, now)
    make_package(NEWER)
    extra = make_dock(organization=acme)
    assert joined(rollout) == [extra]
    assert UpgradeTask.objects.get(gateway=extra).targets.get().to_version == NEW
    end_all(rollout)
    Device.objects.update(firmware_version=NEW, firmware_number=10_013_205)
    assert len(joined(rollout)) == 1  # NEWER is for another rollout


def test_nothing_joins_once_its_package_is_withdrawn(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    package = rollout.tasks.get().targets.get().package
    package.state = package.State.WITHDRAWN
    package.save()
    make_dock(organization=acme)
    assert joined(rollout) == []


def test_each_device_joins_once(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    make_dock(organization=acme)
    assert len(joined(rollout)) == 1
    end_all(rollout)
    assert len(joined(rollout)) == 1


def test_what_failed_elsewhere_joins_when_somebody_has_looked(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    dock = make_dock(organization=acme)
    failed = make_task(dock, status=TaskStatus.FAILED)
    assert joined(rollout) == []
    assert rollouts.held_back(rollout, now) == (0, 1)
    rollouts.dismiss(failed.rollout, now)
    assert joined(rollout) == [dock]


def test_of_two_that_want_a_dock_one_gets_it_and_the_other_tells(
    acme: Organization, now: Any
) -> None:
    first, second = launch(acme, now), launch(acme, now)
    end_all(first)
    Device.objects.update(firmware_version=NEW, firmware_number=10_013_205)
    extra = make_dock(organization=acme)
    rollouts.join(now)
    assert UpgradeTask.objects.filter(gateway=extra).count() == 1
    taken = UpgradeTask.objects.get(gateway=extra).rollout
    other = second if taken == first else first
    assert rollouts.held_back(other, now) == (1, 0)
    assert rollouts.held_back(taken, now) == (0, 0)


def test_what_a_list_named_and_is_gone_lets_nobody_join(acme: Organization, now: Any) -> None:
    roof = Site.objects.create(organization=acme, name="Roof")
    rollout = launch(acme, now, Criterion(site=roof))
    roof.delete()
    make_dock(organization=acme)
    assert joined(rollout) == []


def test_nobody_joins_a_paused_rollout(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    rollouts.pause(rollout, now)
    extra = make_dock(organization=acme)
    assert joined(rollout) == []
    rollouts.resume(rollout, now)
    assert joined(rollout) == [extra]


def test_joining_docks_keep_to_the_jitter_of_a_wave_that_is_open(
    acme: Organization, now: Any
) -> None:
    rollout = launch(acme, now, policy={"jitter_seconds": 600})
    make_dock(organization=acme)
    (dock,) = joined(rollout)
    assert UpgradeTask.objects.get(gateway=dock).not_before is not None


def make_many(owner: Organization, number: int) -> None:
    facts: dict[str, Any] = {"organization": owner, "model": DeviceModel.objects.get(key="3-2-0")}
    facts |= {"firmware_version": OLD, "firmware_number": 10_011_607, "bound_at": timezone.now()}
    Device.objects.bulk_create(Device(sn=f"D{owner.pk}-{n}", **facts) for n in range(number))


def cost(now: dt.datetime) -> int:
    with CaptureQueriesContext(connection) as found:
        rollouts.join(now)
    return len(found)


def test_a_look_costs_the_same_for_one_and_for_many_rollouts(acme: Organization, now: Any) -> None:
    launch(acme, now)
    idle = cost(now)
    for _ in range(4):
        launch(make_organization(), now)
    make_many(make_organization(), 20)  # on nobody's list
    assert cost(now) == idle == 2


def test_joining_costs_the_same_for_few_and_for_many_docks(acme: Organization, now: Any) -> None:
    launch(acme, now)
    make_many(acme, 2)
    few = cost(now)
    many = make_organization()
    launch(many, now)
    make_many(many, 40)
    assert cost(now) == few


def test_of_very_many_some_join_with_the_next_look(
    acme: Organization, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MOST", 3)
    rollout = launch(acme, now)
    make_many(acme, 5)
    assert [len(joined(rollout)), len(joined(rollout)), len(joined(rollout))] == [3, 5, 5]


def test_of_very_many_only_those_are_read_that_join_next(
    acme: Organization, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def answer(device: Device, *told: Any) -> needs.Answer:
        read.append(device.sn)
        return find(device, *told)

    find = needs.answer
    monkeypatch.setattr(needs, "answer", answer)
    monkeypatch.setattr(joining, "MOST", 3)
    other = make_organization()
    first, second = launch(acme, now), launch(other, now)
    make_many(acme, 20)
    make_many(other, 20)
    read.clear()
    assert (len(joined(first)), second.tasks.count()) == (3, 4)
    assert len(read) == 6


@pytest.mark.parametrize("why", ["version", "binding", "organization", "approval", "upgrade"])
def test_who_cannot_join_keeps_nobody_waiting_who_can(
    acme: Organization, now: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(joining, "MOST", 1)
    asking, last = make_organization(), make_organization()
    dock_2 = Criterion(model=make_model("3-2-0"))
    rollout = launch(acme, now, dock_2, with_aircraft=True)
    barred = make_dock(sn="A", organization=asking)
    if why == "version":
        FirmwarePackage.objects.update(minimum_number=10_010_000)
        Device.objects.filter(pk=barred.pk).update(firmware_number=10_000_000)
    elif why == "binding":
        Device.objects.filter(pk=barred.pk).update(bound_at=None)
    elif why == "organization":
        make_aircraft(barred, sn="B", organization=last)
        Device.objects.filter(pk=barred.pk).update(firmware_version=NEW, firmware_number=10_013_205)
    elif why == "approval":
        OrganizationPolicy.objects.create(organization=asking, approval_above=50)
    else:
        before = make_dock(organization=asking)
        aircraft = make_aircraft(before, sn="B")
        Device.objects.filter(pk=barred.pk).update(firmware_version=NEW, firmware_number=10_013_205)
        make_task(before, aircraft=aircraft)
        Device.objects.filter(pk=aircraft.pk).update(gateway=barred)
    extra = make_dock(sn="Z", organization=last)
    assert joined(rollout) == [extra]


def test_a_dock_that_joins_with_others_waiting_brings_its_aircraft(
    acme: Organization, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MOST", 1)
    dock_2 = Criterion(model=make_model("3-2-0"))
    rollout = launch(acme, now, dock_2, with_aircraft=True)
    docks = [make_dock(sn=f"D{number}", organization=acme) for number in (1, 2)]
    for dock in docks:
        make_aircraft(dock, sn=f"Z{dock.sn}")
    assert joined(rollout) == docks[:1]
    assert joined(rollout) == docks
    assert [task.targets.count() for task in rollout.tasks.order_by("pk")] == [1, 2, 2]


# How it ends


def test_an_open_rollout_does_not_finish_by_itself(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    end_all(rollout)
    rollouts.advance(now)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.finished_at) == (RolloutStatus.RUNNING, None)


def test_closing_it_lets_it_finish(acme: Organization, now: Any) -> None:
    rollout, anna = launch(acme, now), make_person("Operators")
    end_all(rollout)
    assert rollouts.close(rollout, now, anna, "enough")
    assert not rollouts.close(rollout, now, anna)
    rollouts.advance(now)
    rollout.refresh_from_db()
    assert rollout.status == RolloutStatus.FINISHED
    line = rollout.events.get(kind=Kind.CLOSED)
    assert (line.actor, line.text) == (anna, "enough")


def test_its_deadline_closes_it(acme: Organization, now: Any) -> None:
    end = now + dt.timedelta(days=30)
    rollout = launch(acme, now, deadline_at=end)
    end_all(rollout)
    later = end + dt.timedelta(seconds=1)
    rollouts.advance(later)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.keeps_open) == (RolloutStatus.FINISHED, False)
    assert "stays open no more" in rollout.events.get(kind=Kind.DEADLINE).text
    make_dock(organization=acme)
    rollouts.join(later)
    assert rollout.tasks.count() == 1


def test_a_canceled_one_ends_and_nobody_joins(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    rollouts.cancel(rollout, now)
    rollouts.advance(now)
    make_dock(organization=acme)
    assert joined(rollout) == []
    rollout.refresh_from_db()
    assert rollout.status == RolloutStatus.CANCELED
    assert rollout.finished_at


def test_a_retry_after_the_end_does_not_open_it_again(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    end_all(rollout, TaskStatus.FAILED)
    rollouts.close(rollout, now)
    rollouts.finish(now)
    rollouts.retry(rollout, now)
    make_dock(organization=acme)
    rollouts.join(now)
    assert rollout.tasks.values("gateway").distinct().count() == 1


# What it takes to stay open


def test_devices_picked_by_hand_cannot_stay_open(acme: Organization, now: Any) -> None:
    dock = make_dock(organization=acme)
    picked = Device.objects.filter(pk=dock.pk)
    with pytest.raises(InvalidPolicy, match="Only a whole list") as refused:
        rollouts.launch(picked, Options(policy={"keeps_open": True}), now)
    assert refused.value.field == "keeps_open"
    OrganizationPolicy.objects.create(organization=acme, keeps_open=True)
    rollout, _ = rollouts.launch(picked, Options(), now)
    assert not rollout.keeps_open


def test_the_organizations_policy_keeps_lists_open(acme: Organization, now: Any) -> None:
    OrganizationPolicy.objects.create(organization=acme, keeps_open=True)
    dock = make_dock(organization=acme)
    by = [Criterion(organization=acme)]
    rollout, _ = rollouts.launch(Device.objects.filter(pk=dock.pk), Options(criteria=by), now)
    assert rollout.keeps_open


def test_who_may_grow_past_the_limit_needs_a_second_person(acme: Organization, now: Any) -> None:
    OrganizationPolicy.objects.create(organization=acme, approval_above=50)
    rollout = launch(acme, now, user=make_person("Operators"))
    assert rollout.status == RolloutStatus.NEEDS_APPROVAL
    extra = make_dock(organization=acme)
    assert joined(rollout) == []
    rollouts.approve(rollout, now, make_person("Administrators"))
    assert joined(rollout) == [extra]


def test_docks_whose_organization_asks_later_wait_for_a_rollout_of_their_own(
    acme: Organization, now: Any
) -> None:
    rollout = launch(acme, now)
    OrganizationPolicy.objects.create(organization=acme, approval_above=50)
    make_dock(organization=acme)
    assert joined(rollout) == []


def test_it_can_be_opened_and_closed_while_it_runs(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now, policy={"keeps_open": False})
    extra = make_dock(organization=acme)
    assert rollouts.change(rollout, {"keeps_open": True}, now) == ["keep open: no -> yes"]
    assert joined(rollout) == [extra]
    rollouts.change(rollout, {"keeps_open": False}, now)
    make_dock(organization=acme)
    assert joined(rollout) == [extra]


def test_what_was_picked_by_hand_is_not_opened_later(acme: Organization, now: Any) -> None:
    dock = make_dock(organization=acme)
    rollout, _ = rollouts.launch(Device.objects.filter(pk=dock.pk), Options(), now)
    with pytest.raises(InvalidPolicy, match="Only a whole list"):
        rollouts.change(rollout, {"keeps_open": True}, now)


def test_what_nobody_approved_is_not_opened_later(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now, policy={"keeps_open": False})
    OrganizationPolicy.objects.create(organization=acme, approval_above=50)
    with pytest.raises(InvalidPolicy, match="second person"):
        rollouts.change(rollout, {"keeps_open": True}, now)
    Rollout.objects.update(decided_by=make_person("Administrators"))  # who saw a fixed list
    with pytest.raises(InvalidPolicy, match="second person"):
        rollouts.change(rollout, {"keeps_open": True}, now)


def test_a_clone_stays_open_for_its_models_and_organizations(acme: Organization, now: Any) -> None:
    rollout = launch(acme, now)
    make_dock(organization=acme)
    clone, _ = rollouts.clone(rollout, now)
    rollouts.close(rollout, now)
    make_dock()
    extra = make_dock(organization=acme)
    assert joined(clone) == [extra]
