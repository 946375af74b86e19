"""A rollout once more, for the rest of the fleet."""

import datetime as dt
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet

from fleet import versions
from fleet.models import Device, DeviceModel, Organization
from fleet.names import in_one_line
from ota.models import Criterion, Rollout, UpgradeTarget
from ota.rollouts.launching import launch
from ota.rollouts.planning import FIELDS, Options, Plan, had


def rest_of(rollout: Rollout, among: QuerySet[Device] | None = None) -> QuerySet[Device]:
    """All other devices of the models and organizations that a rollout has, or those of them ``among`` some.

    What was canceled before it was sent is among them. Who needs nothing, or is being upgraded, is
    left out by the plan.
    """
    models, organizations = _concerned(rollout)
    # Asked once for all: from each device to its upgrades took minutes with a million of them.
    devices = Device.objects.all() if among is None else among
    alike = devices.filter(model__in=models, organization__in=organizations)
    return alike.exclude(pk__in=had(rollout)).order_by("sn")


def options_of(rollout: Rollout, **other: Any) -> Options:
    """What was chosen for a rollout, and what is ``other``; its times are over and stay behind.

    So does the leave to go back, which was given for other devices. The versions are those that the
    rollout had, whatever the library got since. A ``policy`` among the others holds only the fields
    that differ.
    """
    policy = {name: getattr(rollout, name) for name in FIELDS} | other.pop("policy", {})
    models, organizations = _concerned(rollout)
    owners = list(Organization.objects.filter(pk__in=organizations))
    chosen = Options(
        name=in_one_line(f"{rollout.name}, the rest")[:200],
        **_versions(rollout),
        policy=policy,
        criteria=[
            Criterion(model=model, organization=organization)
            for model in DeviceModel.objects.filter(pk__in=models)
            for organization in owners
        ],
        rest_of=rollout,
    )
    return chosen._replace(**other)


def _versions(rollout: Rollout) -> dict[str, Any]:
    """What its devices got: one version as ``to``, several by their models."""
    if rollout.target_version:
        return {"to": rollout.target_version}
    targets = UpgradeTarget.objects.filter(task__rollout=rollout).order_by()
    found = targets.values_list("device__model", "package__version_number").distinct()
    by_model = dict(sorted(found.exclude(device__model=None)))
    if len(set(by_model.values())) == 1:
        return {"to": versions.text(next(iter(by_model.values())))}
    return {"to_by_model": by_model}


def _concerned(rollout: Rollout) -> tuple[set[int], set[int]]:
    """The keys of the models and the organizations of a rollout's devices; one query.

    Looked up here: inside of a question about devices PostgreSQL took three seconds for 100,000.
    """
    targets = UpgradeTarget.objects.filter(task__rollout=rollout).order_by()
    found = list(targets.values_list("device__model", "device__organization").distinct())
    return {model for model, _ in found if model}, {owner for _, owner in found if owner}


def clone(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    remark: str = "",
    **other: Any,
) -> tuple[Rollout, Plan]:
    """Starts a rollout with the same policy and target for the rest of the fleet.

    Raises:
        NothingToUpgrade: no device is left.
        InvalidPolicy: it could not go like this.
    """
    return launch(rest_of(rollout), options_of(rollout, **other), now, user, remark=remark)
