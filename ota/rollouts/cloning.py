"""A rollout once more, for the rest of the fleet."""

import datetime as dt
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet

from fleet.models import Device, DeviceModel, Organization
from ota.models import Criterion, Rollout, UpgradeTarget, UpgradeTask
from ota.rollouts.launching import launch
from ota.rollouts.planning import FIELDS, Options, Plan


def rest_of(rollout: Rollout) -> QuerySet[Device]:
    """All devices of the models and organizations that a rollout has.

    Without those that failed in it: they are retried or dismissed there. Who needs nothing, or is
    being upgraded, is left out by the plan.
    """
    models, organizations = _concerned(rollout)
    parked = UpgradeTask.objects.filter(rollout=rollout).needing_attention()
    return (
        Device.objects.filter(model__in=models, organization__in=organizations)
        .exclude(upgrades__task__in=parked)
        .order_by("sn")
    )


def options_of(rollout: Rollout, **other: Any) -> Options:
    """What was chosen for a rollout, and what is ``other``; its times are over and stay behind.

    A ``policy`` among the others holds only the fields that differ.
    """
    policy = {name: getattr(rollout, name) for name in FIELDS} | other.pop("policy", {})
    models, organizations = _concerned(rollout)
    chosen = Options(
        name=f"{rollout.name}, the rest"[:200],
        to=rollout.target_version,
        allow_downgrade=rollout.allow_downgrade,
        policy=policy,
        criteria=[
            Criterion(model=model, organization=organization)
            for model in models
            for organization in organizations
        ],
    )
    return chosen._replace(**other)


def _concerned(rollout: Rollout) -> tuple[QuerySet[DeviceModel], QuerySet[Organization]]:
    """The models and the organizations of a rollout's devices."""
    targets = UpgradeTarget.objects.filter(task__rollout=rollout).order_by()
    models = DeviceModel.objects.filter(devices__upgrades__in=targets).distinct()
    return models, Organization.objects.filter(devices__upgrades__in=targets).distinct()


def clone(
    rollout: Rollout, now: dt.datetime, user: User | None = None, **other: Any
) -> tuple[Rollout, Plan]:
    """Starts a rollout with the same policy and target for the rest of the fleet.

    Raises:
        NothingToUpgrade: no device is left.
        InvalidPolicy: it could not go like this.
    """
    return launch(rest_of(rollout), options_of(rollout, **other), now, user)
