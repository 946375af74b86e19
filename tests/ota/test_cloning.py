"""A rollout once more: for which devices, and with which choices."""

import datetime as dt

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from fleet.models import Device
from ota import rollouts
from ota.models import Rollout
from ota.rollouts import NothingToUpgrade, Plan
from ota.states import TaskStatus
from tests.make import (
    NEW,
    make_aircraft,
    make_device,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_target,
    make_task,
)

pytestmark = [pytest.mark.django_db, pytest.mark.everywhere]


@pytest.fixture
def proven() -> Device:
    """A dock that has been upgraded already."""
    return make_dock(NEW, organization=make_organization())


def versions_of(plan: Plan) -> set[tuple[str, str]]:
    """The models of a plan with what they get."""
    targets = [target for task in plan.tasks for target in task.targets]
    return {(t.device.model.key, t.package.version) for t in targets if t.device.model}


def make_done(dock: Device, **fields: object) -> Rollout:
    make_listening()
    make_package()
    rollout = make_rollout(**fields)
    make_task(dock, rollout=rollout, status=TaskStatus.OK)
    return rollout


def test_the_rest_are_the_other_devices_of_its_models_and_organizations(proven: Device) -> None:
    rollout = make_done(proven)
    other = make_dock(organization=proven.organization)
    make_aircraft(other)  # of a model that the rollout did not have
    make_dock()  # of another organization
    assert set(rollouts.rest_of(rollout)) == {other}


def test_an_aircraft_that_failed_stays_with_its_rollout_though_its_dock_is_of_the_rest(
    proven: Device,
) -> None:
    rollout = make_done(proven)
    other = make_dock(organization=proven.organization)
    failed = make_task(other, rollout=rollout, status=TaskStatus.FAILED, resolved_at=timezone.now())
    aircraft = make_aircraft(other)
    failed.targets.update(device=aircraft)
    chosen = rollouts.options_of(rollout, with_aircraft=True)
    plan = rollouts.plan(rollouts.rest_of(rollout), chosen, timezone.now())
    assert [target.device for task in plan.tasks for target in task.targets] == [other]


def test_what_failed_stays_with_its_rollout(proven: Device) -> None:
    rollout = make_done(proven)
    failed = make_dock(organization=proven.organization)
    make_task(failed, rollout=rollout, status=TaskStatus.FAILED)
    assert failed not in rollouts.rest_of(rollout)
    rollouts.dismiss(rollout, timezone.now())
    assert failed not in rollouts.rest_of(rollout)


def test_what_a_canceled_rollout_never_reached_is_among_the_rest(proven: Device) -> None:
    rollout = make_done(proven)
    left = make_dock(organization=proven.organization)
    make_task(left, rollout=rollout)
    rollouts.cancel(rollout, timezone.now())
    made, plan = rollouts.clone(rollout, timezone.now())
    assert [task.gateway for task in plan.tasks] == [left]
    assert made.status == Rollout.Status.RUNNING


def test_a_clone_has_the_choices_but_not_the_times(proven: Device) -> None:
    past = timezone.now() - dt.timedelta(days=1)
    rollout = make_done(proven, name="x" * 200, deadline_at=past, starts_at=past, gate=70)
    make_dock(organization=proven.organization)
    made, _ = rollouts.clone(rollout, timezone.now(), policy={"soak_minutes": 5})
    assert (made.starts_at, made.deadline_at, made.name) == (None, None, "x" * 200)
    assert (made.gate, made.soak_minutes) == (70, 5)


def test_a_clone_installs_the_version_of_its_rollout_whatever_came_later(proven: Device) -> None:
    rollout = make_done(proven)  # the newest of its time
    make_dock(organization=proven.organization)
    make_package("10.02.0000")
    made, plan = rollouts.clone(rollout, timezone.now())
    assert made.target_version == NEW
    assert versions_of(plan) == {("3-2-0", NEW)}


def test_each_model_gets_in_a_clone_what_it_got_in_its_rollout(proven: Device) -> None:
    rollout = make_done(proven)
    aircraft = make_aircraft(proven, "09.00.0001")
    make_target(
        make_task(proven, rollout=rollout, status=TaskStatus.OK),
        aircraft,
        make_package("09.00.0001", models=("0-91-1",)),
    )
    make_aircraft(make_dock(organization=proven.organization), "08.00.0001")
    make_package("11.00.0000")
    made, plan = rollouts.clone(rollout, timezone.now(), policy={"keeps_open": True})
    assert versions_of(plan) == {("3-2-0", NEW), ("0-91-1", "09.00.0001")}
    offered = {(offer.model.key, offer.version) for offer in made.offers.all()}
    assert (made.target_version, offered) == ("", versions_of(plan))


def test_a_clone_brings_no_model_that_its_rollout_did_not_have(proven: Device) -> None:
    rollout = make_done(proven)
    make_task(
        make_device("3-3-0", organization=proven.organization),
        rollout=rollout,
        status=TaskStatus.OK,
        version="12.00.0001",
    )
    other = make_aircraft(make_dock(organization=proven.organization))
    plan = rollouts.plan(
        rollouts.rest_of(rollout),
        rollouts.options_of(rollout, with_aircraft=True),
        timezone.now(),
    )
    left_out = {each.device: each.reason.code for each in plan.excluded}
    assert left_out[other] == "no_package"


def test_a_clone_goes_back_only_if_it_is_told_again(proven: Device) -> None:
    rollout = make_done(proven, allow_downgrade=True)
    newer = make_dock("10.02.0000", organization=proven.organization)
    with pytest.raises(NothingToUpgrade):
        rollouts.clone(rollout, timezone.now())
    made, plan = rollouts.clone(rollout, timezone.now(), allow_downgrade=True)
    assert [task.gateway for task in plan.tasks] == [newer]
    assert made.allow_downgrade


@pytest.mark.parametrize("state", [TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.REJECTED])
def test_what_ended_without_success_never_joins_a_clone_that_stays_open(
    proven: Device, state: TaskStatus
) -> None:
    rollout = make_done(proven)
    failed = make_task(make_dock(organization=proven.organization), rollout=rollout, status=state)
    make_dock(organization=proven.organization)
    made, _ = rollouts.clone(rollout, timezone.now(), policy={"keeps_open": True})
    rollouts.dismiss(rollout, timezone.now())
    new = make_dock(organization=proven.organization)
    rollouts.join(timezone.now())
    assert made.tasks.filter(gateway=new).exists()
    assert not made.tasks.filter(gateway=failed.gateway).exists()
    assert rollouts.held_back(made, timezone.now()) == (0, 0)


def test_what_was_retried_and_called_off_does_not_join_the_clone_either(proven: Device) -> None:
    rollout = make_done(proven)
    failed = make_task(
        make_dock(organization=proven.organization), rollout=rollout, status=TaskStatus.FAILED
    )
    make_dock(organization=proven.organization)
    made, _ = rollouts.clone(rollout, timezone.now(), policy={"keeps_open": True})
    rollouts.retry(rollout, timezone.now())
    rollouts.cancel(rollout, timezone.now())
    rollouts.dismiss(rollout, timezone.now())
    rollouts.join(timezone.now())
    assert not made.tasks.filter(gateway=failed.gateway).exists()


def test_what_is_canceled_before_it_was_sent_joins_a_clone_that_stays_open(proven: Device) -> None:
    rollout = make_done(proven)
    left = make_task(make_dock(organization=proven.organization), rollout=rollout)
    make_dock(organization=proven.organization)
    made, _ = rollouts.clone(rollout, timezone.now(), policy={"keeps_open": True})
    rollouts.cancel(rollout, timezone.now())
    rollouts.join(timezone.now())
    assert made.tasks.filter(gateway=left.gateway).exists()


def test_what_failed_joins_a_rollout_for_the_same_list_that_is_no_clone(proven: Device) -> None:
    rollout = make_done(proven)
    failed = make_dock(organization=proven.organization)
    make_task(failed, rollout=rollout, status=TaskStatus.FAILED)
    make_dock(organization=proven.organization)
    options = rollouts.options_of(rollout, policy={"keeps_open": True}, rest_of=None)
    made, _ = rollouts.launch(rollouts.rest_of(rollout), options, timezone.now())
    rollouts.dismiss(rollout, timezone.now())
    rollouts.join(timezone.now())
    assert made.tasks.filter(gateway=failed).exists()


@pytest.mark.parametrize(("clones", "docks"), [(1, 2), (5, 20)])
def test_joining_clones_costs_the_same_for_few_and_for_many(
    proven: Device,
    clones: int,
    docks: int,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    rollout = make_done(proven)
    for _ in range(clones):
        make_dock(organization=proven.organization)
        rollouts.clone(rollout, timezone.now(), policy={"keeps_open": True})
    for _ in range(docks):
        dock = make_dock(organization=proven.organization)
        make_task(dock, rollout=rollout, status=TaskStatus.FAILED, resolved_at=timezone.now())
    with django_assert_num_queries(2):
        rollouts.join(timezone.now())


def test_with_nobody_left_nothing_is_started(proven: Device) -> None:
    rollout = make_done(proven)
    with pytest.raises(NothingToUpgrade):
        rollouts.clone(rollout, timezone.now())
    assert Rollout.objects.count() == 1
