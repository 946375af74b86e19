"""What happens to a package once it is in the library; each change is a line of its history."""

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet

from console.counts import count
from fleet.models import DeviceModel
from ota import live, storage
from ota.models import FirmwarePackage, PackageEvent, Rollout, UpgradeTask
from ota.packages.facts import minimum, refuse_clash, refuse_length
from ota.states import OPEN, PackageState, TaskStatus
from ota.storage import FileMissing
from ota.zips import PackageRefused

_DELETED = "its file was deleted"
_LEFT = "its file could not be removed now; clean_library removes it"


def note(
    package: FirmwarePackage, now: dt.datetime, text: str, user: User | None = None
) -> PackageEvent:
    """Adds a line to the package's history; ``user`` None is the system itself."""
    return PackageEvent.objects.create(package=package, at=now, actor=user, text=text[:500])


def change(
    package: FirmwarePackage, said: Mapping[str, Any], now: dt.datetime, user: User | None = None
) -> str:
    """Writes what people say about a package, and nothing else of it.

    ``said`` may have ``models``, ``released_on``, ``minimum_version`` and ``notes``. Returns what is
    different now, which is also the line of history; empty if nothing is.

    Raises:
        PackageRefused: as ``refuse_change``.
    """
    with transaction.atomic():
        refuse_change(package, said)
        found = FirmwarePackage.objects.select_for_update().get(pk=package.pk)
        before = _in_words(found)
        for name in said.keys() - {"models"}:
            setattr(found, name, said[name])
        found.save(update_fields=[*(said.keys() - {"models"}), "minimum_number"])
        if "models" in said:
            found.models.set(said["models"])
        text = "; ".join(_differences(before, _in_words(found)))
        if text:
            note(package, now, text, user)
            waiting = UpgradeTask.objects.filter(targets__package=package)
            waiting.filter(status=TaskStatus.PENDING).update(checked_at=None)
    return text


def refuse_change(package: FirmwarePackage, said: Mapping[str, Any]) -> None:
    """Inside a transaction, until whose end nobody else gets one of the models for this version.

    Raises:
        PackageRefused: the minimum is not older than the package, or another one has its place.
    """
    minimum(said.get("minimum_version", ""), package.version, package.file_name)
    refuse_length(said.get("notes", ""), package.file_name)
    if "models" not in said or package.state == PackageState.WITHDRAWN:
        return
    models = list(said["models"])
    list(DeviceModel.objects.select_for_update().filter(pk__in=[model.pk for model in models]))
    try:
        refuse_clash(package, models)
    except PackageRefused as error:
        raise PackageRefused(str(error), "models") from error


def _in_words(package: FirmwarePackage) -> dict[str, Any]:
    return {
        "release date": package.released_on or "unknown",
        "needs first": package.minimum_version or "nothing",
        "release notes": package.notes,
        "models": {model.name for model in package.models.all()},
    }


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    added, removed = after["models"] - before["models"], before["models"] - after["models"]
    for word, names in (("added", added), ("removed", removed)):
        if names:
            yield f"models {word}: {', '.join(sorted(names))}"
    for name in ("release date", "needs first"):
        if before[name] != after[name]:
            yield f"{name}: {before[name]} -> {after[name]}"
    if before["release notes"] != after["release notes"]:
        yield "release notes changed"


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
        # From now on a check of its bytes gives it back as available.
        FirmwarePackage.objects.filter(pk=found.pk).update(
            state=PackageState.AVAILABLE, opens_as_draft=False
        )
        note(found, now, "made available", user)
    package.state = PackageState.AVAILABLE


def waiting_for(packages: Collection[FirmwarePackage]) -> QuerySet[UpgradeTask]:
    """The upgrades that are to install one of the packages and are not sent yet."""
    waiting = UpgradeTask.objects.filter(targets__package__in=packages, status=TaskStatus.PENDING)
    return waiting.distinct()


def withdraw(
    package: FirmwarePackage, now: dt.datetime, user: User | None = None
) -> list[UpgradeTask]:
    """Takes a package back, with the tasks that were to install it and are not sent yet.

    Returns the tasks that were called off, oldest first. What was sent goes on, but can fetch the zip no longer.
    """
    with transaction.atomic():
        active = FirmwarePackage.objects.filter(pk=package.pk).exclude(state=PackageState.WITHDRAWN)
        if active.update(state=PackageState.WITHDRAWN):
            note(package, now, "withdrawn", user)
        pks = set(waiting_for([package]).values_list("pk", flat=True))
        moved = UpgradeTask.objects.call_off(
            pks, now, f"package {package} was withdrawn"[:450], user
        )
        canceled = UpgradeTask.objects.filter(pk__in=moved).order_by("pk")
        tasks = list(canceled.select_related("gateway", "rollout"))
        live.announce((task.rollout_id, task.pk) for task in tasks)
    package.state = PackageState.WITHDRAWN
    return tasks


def purge(package: FirmwarePackage, now: dt.datetime, user: User | None = None) -> bool:
    """Deletes the file of a withdrawn package and keeps its row, which histories need.

    Whether the file is gone; if not, it is left to ``clean_library``.

    Raises:
        PackageRefused: it is not withdrawn, or an open upgrade may still fetch it.
    """
    # Nothing around it may be undone: the file does not come back.
    with transaction.atomic(durable=True):
        found = FirmwarePackage.objects.select_for_update().get(pk=package.pk)
        if found.state != PackageState.WITHDRAWN:
            raise PackageRefused(f"{found} is not withdrawn; withdraw it first.")
        needed = UpgradeTask.objects.filter(targets__package=found, status__in=OPEN).count()
        if needed:
            are = count(needed, "upgrade that has", "upgrades that have")
            raise PackageRefused(f"{found} is needed by {are} not ended yet.")
        FirmwarePackage.objects.filter(pk=found.pk, purged_at=None).update(purged_at=now)
    package.purged_at = found.purged_at or now
    is_gone = storage.discard(str(found.file.name))
    if found.purged_at is None:
        note(found, now, _DELETED if is_gone else _LEFT, user)
    return is_gone


def is_broken(package: FirmwarePackage) -> bool:
    """Whether something is wrong with the package's file, also if nobody has missed it yet.

    Raises:
        StorageAway: nothing is known about its file.
    """
    return _broken(package).exists()


def _broken(package: FirmwarePackage) -> QuerySet[FirmwarePackage]:
    """The package, if another file may take the place of its own."""
    wrong, name = Q(state=PackageState.DRAFT) & ~Q(problem=""), str(package.file.name)
    try:
        with storage.reached():
            storage.stat(name)
    except FileMissing:
        wrong |= Q(state__in=(PackageState.DRAFT, PackageState.AVAILABLE), file=name)
    return FirmwarePackage.objects.filter(wrong, pk=package.pk)


def replace_file(
    package: FirmwarePackage, name: str, now: dt.datetime, user: User | None = None
) -> bool:
    """Gives a package that something is wrong with another file of the storage, and has it checked.

    Whether something was wrong; if not, the file is still the caller's.

    Raises:
        StorageAway: nothing is known about its file.
    """
    broken = _broken(package)  # before the lock: a bucket may take its time
    with transaction.atomic():
        found = broken.select_for_update().first()
        if found is None:
            return False
        is_draft = found.state == PackageState.DRAFT and not found.problem
        FirmwarePackage.objects.filter(pk=found.pk).update(
            file=name,
            state=PackageState.CHECKING,
            opens_as_draft=found.opens_as_draft or is_draft,
            problem="",
            stamp="",
            checked_until=None,
        )
        note(package, now, "its file was replaced, and is being checked", user)
        old = str(found.file.name)
        if old != name:
            transaction.on_commit(lambda: storage.discard(old))
    return True


def rollouts_of(package: FirmwarePackage) -> list[Rollout]:
    """The rollouts that still have something to do with the package, oldest first."""
    tasks = UpgradeTask.objects.filter(targets__package=package, status__in=OPEN)
    return list(Rollout.objects.filter(pk__in=tasks.values("rollout_id")).order_by("pk"))
