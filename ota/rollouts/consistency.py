"""Consistency upgrades that the system starts by itself, where an organization lets it.

Only while the organization's hours are open, at most once an hour, and never where a newer version is to be
had: a regular upgrade puts the modules right too. A dock rests after each such upgrade, and one that
failed waits for somebody first, so that nothing goes round in circles.
"""

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, When

from fleet.models import Device, DeviceModel
from fleet.names import in_one_line
from ota import needs
from ota.models import FirmwarePackage, OrganizationPolicy, UpgradeTarget, UpgradeTask
from ota.moments import moment
from ota.needs import Need
from ota.rollouts.launching import NothingToUpgrade, launch
from ota.rollouts.options import InvalidPolicy, Options
from ota.states import PackageState
from ota.upgrades import hours

logger = logging.getLogger(__name__)

EVERY = dt.timedelta(hours=1)
REST = dt.timedelta(days=7)


def start(now: dt.datetime) -> None:
    """Starts a rollout for each organization that lets it, and has such docks whose hours are open.

    While there is nothing to start, a few queries for any number of organizations and docks.
    """
    policies = OrganizationPolicy.objects.filter(_is_due(now), starts_consistency=True)
    owners = {policy.organization_id: policy for policy in policies.select_related("organization")}
    chosen: defaultdict[int, list[Device]] = defaultdict(list)
    for device in _without_regular(_wanting(owners, now), now) if owners else []:
        chosen[device.organization_id or 0].append(device)
    for owner, devices in sorted(chosen.items()):
        if any(_is_open(owners[owner], device, now) for device in devices):
            _start(owners[owner], devices, now)


def _is_due(now: dt.datetime) -> Q:
    """Not in the hour after the last time; a time that lies ahead was told by a clock that was wrong."""
    last = "consistency_at"
    return Q(**{last: None}) | Q(**{f"{last}__lte": now - EVERY}) | Q(**{f"{last}__gt": now})


def _wanting(owners: Collection[int], now: dt.datetime) -> QuerySet[Any]:
    """Devices that ask for it, have the newest version, and whose dock is free and has not been there lately."""
    packages = FirmwarePackage.objects.filter(models=OuterRef("model"))
    same = packages.available().filter(version_number=OuterRef("firmware_number"))
    # One that is being checked is offered again in a moment.
    offered = packages.filter(state__in=(PackageState.AVAILABLE, PackageState.CHECKING))
    newer = offered.filter(version_number__gt=OuterRef("firmware_number"))
    tasks = UpgradeTask.objects.filter(gateway=OuterRef("takes_commands"))
    lately = UpgradeTarget.objects.filter(
        Q(task__finished_at=None) | Q(task__finished_at__gt=now - REST),
        device=OuterRef("pk"),
        upgrade_type=UpgradeTarget.Type.CONSISTENCY,
    )
    dock = Case(When(model__kind=DeviceModel.Kind.DOCK, then=F("pk")), default=F("gateway"))
    devices: QuerySet[Any] = Device.objects.annotate(takes_commands=dock)
    return devices.filter(
        Exists(same),
        ~Exists(newer),
        ~Exists(lately),
        ~Exists(tasks.open()),
        ~Exists(tasks.needing_attention()),
        organization__in=owners,
        compatible_status=1,
        firmware_number__gt=0,
    )


def _without_regular(wanting: QuerySet[Any], now: dt.datetime) -> list[Device]:
    """Those of them that may go, and neither whose dock nor whose aircraft needs a regular upgrade."""
    wanted = {device.pk for device in wanting}
    docks = Device.objects.filter(pk__in=[device.takes_commands for device in wanting])
    answers = needs.assess(docks.with_aircraft(), now) if wanted else []
    regular = {a.gateway for a in answers if a.need is Need.REGULAR}
    return [
        answer.device
        for answer in answers
        if answer.device.pk in wanted
        and answer.need is Need.CONSISTENCY
        and answer.exclusion is None
        and answer.gateway not in regular
    ]


def _is_open(policy: OrganizationPolicy, device: Device, now: dt.datetime) -> bool:
    gateway = needs.gateway_of(device)
    return gateway is not None and hours.is_open(policy, gateway, now)


def _start(policy: OrganizationPolicy, devices: Sequence[Device], now: dt.datetime) -> None:
    """Of two that want to at once one does."""
    whose, at = str(policy.organization)[:150], moment(now)
    options = Options(
        name=in_one_line(f"Consistency upgrades of {whose}, {at}"),
        policy={"keeps_open": False},
        need=Need.CONSISTENCY,
        is_automatic=True,
    )
    with transaction.atomic():
        mine = OrganizationPolicy.objects.filter(
            _is_due(now), pk=policy.pk, starts_consistency=True
        )
        if not mine.update(consistency_at=now):
            return
        chosen = Device.objects.filter(pk__in=[device.pk for device in devices])
        try:
            launch(chosen.order_by("sn"), options, now)
        except NothingToUpgrade:
            logger.info("others have the docks of %s that need consistency", policy.organization)
        except InvalidPolicy as error:
            logger.warning("no consistency upgrades of %s: %s", policy.organization, error)
