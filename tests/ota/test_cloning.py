"""A rollout once more: for which devices, and with which choices."""

import datetime as dt

import pytest
from django.utils import timezone

from fleet.models import Device
from ota import rollouts
from ota.models import Rollout
from ota.rollouts import NothingToUpgrade
from ota.states import TaskStatus
from tests.make import (
    NEW,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)

pytestmark = [pytest.mark.django_db, pytest.mark.everywhere]


@pytest.fixture
def proven() -> Device:
    """A dock that has been upgraded already."""
    return make_dock(NEW, organization=make_organization())


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
    assert set(rollouts.rest_of(rollout)) == {proven, other}


def test_what_failed_stays_with_its_rollout_until_it_is_dismissed(proven: Device) -> None:
    rollout = make_done(proven)
    failed = make_dock(organization=proven.organization)
    make_task(failed, rollout=rollout, status=TaskStatus.FAILED)
    assert failed not in rollouts.rest_of(rollout)
    rollouts.dismiss(rollout, timezone.now())
    assert failed in rollouts.rest_of(rollout)


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
    rollout = make_done(
        proven, name="x" * 200, deadline_at=past, starts_at=past, allow_downgrade=True, gate=70
    )
    make_dock(organization=proven.organization)
    made, _ = rollouts.clone(rollout, timezone.now(), policy={"soak_minutes": 5})
    assert (made.starts_at, made.deadline_at, made.name) == (None, None, "x" * 200)
    assert (made.allow_downgrade, made.gate, made.soak_minutes) == (True, 70, 5)


def test_with_nobody_left_nothing_is_started(proven: Device) -> None:
    rollout = make_done(proven)
    with pytest.raises(NothingToUpgrade):
        rollouts.clone(rollout, timezone.now())
    assert Rollout.objects.count() == 1
