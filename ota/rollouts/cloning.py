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
from ota.rollouts.options import FIELDS, Options
from ota.rollouts.planning import Plan, had


def rest_of(rollout: Rollout, among: QuerySet[Device] | None = None) -> QuerySet[Device]:
    """All other devices of the models and organizations that a rollout has, or those of them ``among`` some.

    What was canceled before it was sent is among them. Who needs nothing, or is being upgraded, is
    left out by the plan.
    """
    given = _given(rollout)
    devices = Device.objects.all() if among is None else among
    alike = devices.filter(
        model__in={model for model, _, _ in given},
        organization__in={organization for _, organization, _ in given},
    )
    # Asked once for all: from each device to its upgrades took minutes with a million of them.
    return alike.exclude(pk__in=had(rollout)).order_by("sn")


def options_of(rollout: Rollout, **other: Any) -> Options:
    """What was chosen for a rollout, and what is ``other``; its times are over and stay behind.

    So does the leave to go back, which was given for other devices. The versions are those that the
    rollout had, whatever the library got since. A ``policy`` among the others holds only the fields
    that differ.
    """
    policy = {name: getattr(rollout, name) for name in FIELDS} | other.pop("policy", {})
    given = _given(rollout)
    owners = list(Organization.objects.filter(pk__in={owner for _, owner, _ in given}))
    chosen = Options(
        name=in_one_line(f"{rollout.name}, the rest")[:200],
        **_versions(rollout, given),
        policy=policy,
        criteria=[
            Criterion(model=model, organization=organization)
            for model in DeviceModel.objects.filter(pk__in={model for model, _, _ in given})
            for organization in owners
        ],
        rest_of=rollout,
    )
    return chosen._replace(**other)


# Of devices that got something: their model, their organization, and the version as a number.
Given = set[tuple[int | None, int | None, int]]


def _versions(rollout: Rollout, given: Given) -> dict[str, Any]:
    """What its devices got: one version as ``to``, several by their models."""
    if rollout.target_version:
        return {"to": rollout.target_version}
    by_model = dict(sorted((model, number) for model, _, number in given if model))
    if len(set(by_model.values())) == 1:
        return {"to": versions.text(next(iter(by_model.values())))}
    return {"to_by_model": by_model}


def _given(rollout: Rollout) -> Given:
    """What a rollout gave to whom, the same once; one query.

    Looked up here: inside of a question about devices PostgreSQL took three seconds for 100,000.
    """
    targets = UpgradeTarget.objects.filter(task__rollout=rollout).order_by()
    fields = ("device__model", "device__organization", "package__version_number")
    return set(targets.values_list(*fields).distinct())


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
