"""What happens to a package once it is in the library; each change is a line of its history."""

import datetime as dt

from django.contrib.auth.models import User
from django.db import transaction

from ota import live, storage
from ota.models import FirmwarePackage, PackageEvent, Rollout, UpgradeTask
from ota.packages.facts import refuse_clash
from ota.states import OPEN, PackageState, TaskStatus
from ota.zips import PackageRefused


def note(
    package: FirmwarePackage, now: dt.datetime, text: str, user: User | None = None
) -> PackageEvent:
    """Adds a line to the package's history; ``user`` None is the system itself."""
    return PackageEvent.objects.create(package=package, at=now, actor=user, text=text[:500])


def make_available(package: FirmwarePackage, now: dt.datetime, user: User | None = None) -> None:
    """Offers a draft for upgrades.

    Raises:
        PackageRefused: it is no draft, something is wrong with it, or another one has its place.
    """
    with transaction.atomic():
        found = FirmwarePackage.objects.select_for_update().get(pk=package.pk)
        if found.state != PackageState.DRAFT:
            raise PackageRefused(f"{found} is {found.get_state_display().lower()}, not a draft.")
        if found.problem:
            raise PackageRefused(f"{found} cannot be made available: {found.problem}")
        refuse_clash(found, list(found.models.all()))
        FirmwarePackage.objects.filter(pk=found.pk).update(state=PackageState.AVAILABLE)
        note(found, now, "made available", user)
    package.state = PackageState.AVAILABLE


def withdraw(
    package: FirmwarePackage, now: dt.datetime, user: User | None = None
) -> list[UpgradeTask]:
    """Takes a package back, with the tasks that were to install it and are not sent yet.

    Returns the tasks that were canceled. What was sent goes on, but can fetch the zip no longer.
    """
    with transaction.atomic():
        active = FirmwarePackage.objects.filter(pk=package.pk).exclude(state=PackageState.WITHDRAWN)
        if active.update(state=PackageState.WITHDRAWN):
            note(package, now, "withdrawn", user)
        waiting = UpgradeTask.objects.filter(targets__package=package, status=TaskStatus.PENDING)
        moved = UpgradeTask.objects.move(
            set(waiting.values_list("pk", flat=True)),
            TaskStatus.CANCELED,
            now,
            f"package {package} was withdrawn"[:500],
            only_from=[TaskStatus.PENDING],
            actor=user,
        )
        tasks = list(UpgradeTask.objects.filter(pk__in=moved).select_related("gateway", "rollout"))
        live.announce((task.rollout_id, task.pk) for task in tasks)
    package.state = PackageState.WITHDRAWN
    return tasks


def purge(package: FirmwarePackage, now: dt.datetime, user: User | None = None) -> None:
    """Deletes the file of a withdrawn package and keeps its row, which histories need.

    Raises:
        PackageRefused: it is not withdrawn, or an open upgrade may still fetch it.
    """
    with transaction.atomic():
        found = FirmwarePackage.objects.select_for_update().get(pk=package.pk)
        if found.state != PackageState.WITHDRAWN:
            raise PackageRefused(f"{found} is not withdrawn; withdraw it first.")
        needed = UpgradeTask.objects.filter(targets__package=found, status__in=OPEN).count()
        if needed:
            raise PackageRefused(f"{found} is needed by {needed} upgrades that have not ended yet.")
        if found.purged_at is None:
            FirmwarePackage.objects.filter(pk=found.pk).update(purged_at=now)
            note(found, now, "its file was deleted", user)
        name = str(found.file.name)
        transaction.on_commit(lambda: storage.remove(name))
    package.purged_at = package.purged_at or now


def rollouts_of(package: FirmwarePackage) -> list[Rollout]:
    """The rollouts that still have something to do with the package, oldest first."""
    tasks = UpgradeTask.objects.filter(targets__package=package, status__in=OPEN)
    return list(Rollout.objects.filter(pk__in=tasks.values("rollout_id")).order_by("pk"))
