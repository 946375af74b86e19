"""Firmware packages: store a verified zip, and take a package back."""

import datetime as dt
import hashlib
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from django.contrib.auth.models import User
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import IntegrityError, transaction

from fleet import versions
from fleet.models import DeviceModel
from ota import live
from ota.models import FirmwarePackage, ProductCode, UpgradeTask
from ota.states import PackageState, TaskStatus
from ota.zips import Inspection, PackageRefused, inspect

__all__ = ["Inspection", "PackageRefused", "add", "inspect", "withdraw"]

LONGEST_NAME = 200
CHUNK = 1 << 20

# Control, format (bidi and invisible), surrogate, private, unassigned; line and paragraph ends.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Fingerprint(NamedTuple):
    """What identifies a file's bytes; ``size`` in bytes, digests in lower-case hex."""

    size: int
    md5: str
    sha256: str


def add(
    path: Path,
    *,
    models: Sequence[str] | None = None,
    version: str | None = None,
    released_on: dt.date | None = None,
    notes: str = "",
    draft: bool = False,
    user: User | None = None,
    file_name: str | None = None,
) -> tuple[FirmwarePackage, bool]:
    """Adds a zip to the library; tells whether it is new. Bytes that are there already change nothing.

    ``models`` are model keys such as ``3-2-0``. The zip is copied; the file at ``path`` stays.

    Raises:
        PackageRefused: the file, its name or what was said about it is not right.
    """
    name = _checked_name(file_name or path.name)
    told = inspect(path, name)
    _refuse_contradiction(told, version, name)
    found = _fingerprint(path)
    if known := FirmwarePackage.objects.filter(sha256=found.sha256).first():
        return known, False
    fitting = _models(told, models, name)
    package = FirmwarePackage(
        file_name=name,
        version=_version(told, version, name),
        product_code=told.product_code,
        released_on=released_on or told.released_on,
        notes=notes,
        size=found.size,
        md5=found.md5,
        sha256=found.sha256,
        state=PackageState.DRAFT if draft else PackageState.AVAILABLE,
        created_by=user,
    )
    _refuse_clash(package, fitting)
    return _store(path, package, fitting)


def withdraw(
    package: FirmwarePackage, now: dt.datetime, user: User | None = None
) -> list[UpgradeTask]:
    """Takes a package back, with the tasks that were to install it and are not sent yet.

    Returns the tasks that were canceled. What was sent goes on, but can fetch the zip no longer.
    """
    with transaction.atomic():
        FirmwarePackage.objects.filter(pk=package.pk).update(state=PackageState.WITHDRAWN)
        waiting = UpgradeTask.objects.filter(targets__package=package, status=TaskStatus.PENDING)
        moved = UpgradeTask.objects.move(
            set(waiting.values_list("pk", flat=True)),
            TaskStatus.CANCELED,
            now,
            f"package {package} was withdrawn"[:500],
            only_from=[TaskStatus.PENDING],
            actor=user,
        )
        tasks = list(UpgradeTask.objects.filter(pk__in=moved).select_related("gateway"))
        live.announce((task.rollout_id, task.pk) for task in tasks)
    package.state = PackageState.WITHDRAWN
    return tasks


# What was said about the zip


def _checked_name(name: str) -> str:
    """A name that is safe in addresses, headers, logs and on screens."""
    shown = ascii(name[:LONGEST_NAME])
    if not name.lower().endswith(".zip") or len(name) > LONGEST_NAME or name.lower() == ".zip":
        raise PackageRefused(
            f"The file name {shown} does not end in .zip or is longer than {LONGEST_NAME} characters. "
            "Give the file the vendor's name."
        )
    if any(char in "/\\" or unicodedata.category(char) in _HIDDEN for char in name):
        raise PackageRefused(
            f"The file name {shown} has path separators or invisible characters. "
            "Give the file the vendor's name."
        )
    return name


def _refuse_contradiction(told: Inspection, version: str | None, name: str) -> None:
    if not version:
        return
    try:
        given = versions.canonical(version)
    except versions.InvalidVersion as error:
        raise PackageRefused(f"{name}: {error}.") from error
    if told.is_version_inside and given != told.version:
        raise PackageRefused(
            f"{name} says that it is {told.version}, not {given}. "
            "Leave the version out, or choose the right file."
        )


def _version(told: Inspection, version: str | None, name: str) -> str:
    found = versions.canonical(version) if version else told.version
    if not found:
        raise PackageRefused(
            f"{name} does not tell its version. Say it with --product-version, as {versions.FORM}."
        )
    return found


def _models(told: Inspection, keys: Sequence[str] | None, name: str) -> list[DeviceModel]:
    """The models that the package fits: those that were named, else those of its product code."""
    if keys:
        found = list(DeviceModel.objects.filter(key__in=keys).order_by("pk"))
        if unknown := sorted(set(keys) - {model.key for model in found}):
            raise PackageRefused(
                f"{name}: unknown device model {', '.join(unknown)}. "
                "Add it to the device models first, or correct the key."
            )
        _refuse_other_product(told.product_code, found, name)
        return found
    known = ProductCode.objects.filter(code__iexact=told.product_code).first()
    found = list(known.models.order_by("pk")) if known else []
    if not found:
        code = told.product_code or "(none)"
        raise PackageRefused(
            f"{name} has the product code {code}, which stands for no device model yet. "
            "Name the models with --model, such as --model 3-2-0, or teach the code in the console."
        )
    return found


def _refuse_other_product(code: str, models: Sequence[DeviceModel], name: str) -> None:
    """A code that the library knows from other products is not taken for these as well."""
    same = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN).filter(product_code=code)
    known = DeviceModel.objects.filter(packages__in=same).distinct()
    if code and known and not set(known) & set(models):
        fits = ", ".join(sorted(model.name for model in known))
        raise PackageRefused(
            f"{name} has the product code {code}, and the packages of that code in the library are "
            f"for {fits}. Correct the models, or withdraw those packages first."
        )


def _refuse_clash(package: FirmwarePackage, models: Sequence[DeviceModel]) -> None:
    """One version of a model has one zip, or nobody knows which one a dock has got."""
    valid = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN)
    other = (
        valid.exclude(sha256=package.sha256)
        .filter(version=package.version, models__in=models)
        .first()
    )
    if other:
        raise PackageRefused(
            f"{package.file_name} has other content than {other.file_name}, which is "
            f"{other.version} for the same model already. Withdraw that one first."
        )


# Storing


def _fingerprint(path: Path) -> Fingerprint:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return Fingerprint(size, md5.hexdigest(), sha256.hexdigest())


def _store(
    path: Path, package: FirmwarePackage, models: Sequence[DeviceModel]
) -> tuple[FirmwarePackage, bool]:
    """The copy and the row; without the row the copy goes too."""
    with ExitStack() as undo:
        package.file.name = _copy(path, package)
        undo.callback(default_storage.delete, package.file.name)
        try:
            _create(package, models)
        except IntegrityError:  # somebody added the same bytes meanwhile
            return FirmwarePackage.objects.get(sha256=package.sha256), False
        undo.pop_all()
    return package, True


def _copy(path: Path, package: FirmwarePackage) -> str:
    """The name in the storage: ours, because the vendor's may be anything."""
    with path.open("rb") as file:
        name: str = default_storage.save(f"firmware/{package.sha256}.zip", File(file))
    if default_storage.size(name) != package.size:
        default_storage.delete(name)
        raise PackageRefused(f"{package.file_name} changed while it was read. Try again.")
    return name


def _create(package: FirmwarePackage, models: Sequence[DeviceModel]) -> None:
    with transaction.atomic():
        # Whoever adds a package for one of these models waits here for the other.
        list(DeviceModel.objects.select_for_update().filter(pk__in=[m.pk for m in models]))
        _refuse_clash(package, models)
        package.save()
        package.models.set(models)
