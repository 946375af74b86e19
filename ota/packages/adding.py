"""A zip's way into the library: from a file of this machine, or from an upload that has arrived."""

import datetime as dt
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from django.contrib.auth.models import User
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import IntegrityError, transaction
from django.utils import timezone

from fleet.models import DeviceModel
from ota import storage, uploads, zips
from ota.models import FirmwarePackage, Upload
from ota.packages import changes
from ota.packages.facts import Facts, Given, refuse_clash, safe_name, settle
from ota.states import PackageState
from ota.zips import PackageRefused

CHUNK = 1 << 20


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
    minimum_version: str = "",
    confirmed: bool = False,
    user: User | None = None,
    file_name: str | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> tuple[FirmwarePackage, bool]:
    """Adds a zip to the library; tells whether it is new. Bytes that are there already change nothing.

    ``models`` are model keys such as ``3-2-0``. The zip is read whole, checked and copied; the file
    at ``path`` stays. ``on_bytes`` is told how many more bytes were read, three times the size in all.

    Raises:
        PackageRefused: the file, its name or what was said about it is not right.
    """
    name = safe_name(file_name or path.name)
    given = Given(
        models or (), version or "", released_on, notes, draft, minimum_version, confirmed
    )
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise PackageRefused(f"{name} is not there. Check the path.") from error
    with file:
        changed_at = _changed_at(file)
        told = zips.inspect(file, name)
        found = fingerprint(file, on_bytes)
        if known := FirmwarePackage.objects.filter(sha256=found.sha256).first():
            _mend(known, file, user)
            return known, False
        facts = settle(told, given, name)
        zips.verify(file, name, on_bytes)
        package = _package(name, facts, given, user)
        package.size, package.md5, package.sha256 = found
        package.state = PackageState.DRAFT if draft else PackageState.AVAILABLE
        package.verified_at = timezone.now()
        refuse_clash(package, facts.models)
        return _store(file, changed_at, package, facts.models, on_bytes)


def add_upload(upload: Upload, given: Given, user: User | None) -> tuple[FirmwarePackage, bool]:
    """Makes a package of an upload that is complete; a worker checks its bytes before it is available.

    The upload is gone afterwards, also if its file is no package at all. After another refusal it is
    kept, so that what was said can be corrected.

    Raises:
        PackageRefused: the file, its name or what was said about it is not right.
    """
    name = safe_name(upload.file_name)
    _refuse_incomplete(upload)
    told = _inspected(upload, name)
    known = FirmwarePackage.objects.filter(sha256=upload.sha256 or None).first()
    if known:
        _mend_or_drop(known, upload, user)
        return known, False
    facts = settle(told, given, name)
    package = _package(name, facts, given, user)
    package.size, package.md5, package.sha256 = upload.size, upload.md5, upload.sha256 or None
    package.file.name = upload.key
    package.state, package.opens_as_draft = PackageState.CHECKING, given.draft
    refuse_clash(package, facts.models)
    try:
        with transaction.atomic():
            _create(package, facts.models)
            _claim(upload)
    except IntegrityError:  # somebody added the same bytes meanwhile
        uploads.drop(upload)
        return FirmwarePackage.objects.get(sha256=package.sha256), False
    return package, True


def _mend(package: FirmwarePackage, file: BinaryIO, user: User | None) -> None:
    """A package whose file is damaged or gone gets this one; a worker checks it."""
    if not changes.is_broken(package):
        return
    name = _copy(file, package)
    if not changes.replace_file(package, name, timezone.now(), user):
        storage.remove(name)
    package.refresh_from_db()


def _mend_or_drop(package: FirmwarePackage, upload: Upload, user: User | None) -> None:
    with transaction.atomic():
        if changes.replace_file(package, upload.key, timezone.now(), user):
            _claim(upload)
            return
    uploads.drop(upload)


def _claim(upload: Upload) -> None:
    """Who deletes the row owns the file; somebody may have discarded it meanwhile."""
    if not Upload.objects.filter(pk=upload.pk).delete()[0]:
        raise PackageRefused(f"{upload.file_name} was added or discarded meanwhile.")


def fingerprint(file: BinaryIO, on_bytes: Callable[[int], None] | None = None) -> Fingerprint:
    """Reads a file from its start to its end, in pieces."""
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    file.seek(0)
    while chunk := file.read(CHUNK):
        md5.update(chunk)
        sha256.update(chunk)
        size += len(chunk)
        if on_bytes:
            on_bytes(len(chunk))
    return Fingerprint(size, md5.hexdigest(), sha256.hexdigest())


def _refuse_incomplete(upload: Upload) -> None:
    try:
        found = storage.stat(upload.key).size
    except storage.FileMissing:
        found = 0
    if not upload.is_complete or found != upload.size:
        raise PackageRefused(
            f"{upload.file_name} has not arrived whole: {min(found, upload.offset):,} of "
            f"{upload.size:,} bytes. Choose the file again to go on."
        )


def _inspected(upload: Upload, name: str) -> zips.Inspection:
    try:
        with storage.open_file(upload.key) as file:
            return zips.inspect(file, name)
    except PackageRefused:  # nothing that people could say would make it one
        uploads.drop(upload)
        raise


def _package(name: str, facts: Facts, given: Given, user: User | None) -> FirmwarePackage:
    """The row to be, without what its bytes are."""
    return FirmwarePackage(
        file_name=name,
        version=facts.version,
        product_code=facts.product_code,
        released_on=facts.released_on,
        minimum_version=facts.minimum_version,
        notes=given.notes,
        created_by=user,
    )


def _changed_at(file: BinaryIO) -> int:
    """When somebody last wrote to a file of this machine, nanoseconds."""
    return os.fstat(file.fileno()).st_mtime_ns


def _store(
    file: BinaryIO,
    changed_at: int,
    package: FirmwarePackage,
    models: Sequence[DeviceModel],
    on_bytes: Callable[[int], None] | None,
) -> tuple[FirmwarePackage, bool]:
    """The copy and the row; without the row the copy goes too.

    What was written to the file since ``changed_at`` may be in the copy, and was not checked.
    """
    with ExitStack() as undo:
        package.file.name = _copy(file, package)
        undo.callback(default_storage.delete, package.file.name)
        found = storage.stat(package.file.name)
        if found.size != package.size or _changed_at(file) != changed_at:
            raise PackageRefused(f"{package.file_name} changed while it was read. Try again.")
        package.stamp = found.stamp
        try:
            _create(package, models)
        except IntegrityError:  # somebody added the same bytes meanwhile
            return FirmwarePackage.objects.get(sha256=package.sha256), False
        undo.pop_all()
    if on_bytes:
        on_bytes(package.size)
    return package, True


def _copy(file: BinaryIO, package: FirmwarePackage) -> str:
    """The name in the storage: ours, because the vendor's may be anything.

    Nobody else gets it, not even for the same bytes: who loses that race deletes his own copy.
    """
    if storage.is_folder():
        storage.folder()
    file.seek(0)
    name: str = default_storage.save(f"{storage.FOLDER}/{uuid.uuid4()}.zip", File(file))
    return name


def _create(package: FirmwarePackage, models: Sequence[DeviceModel]) -> None:
    with transaction.atomic():
        # Whoever adds a package for one of these models waits here for the other.
        list(DeviceModel.objects.select_for_update().filter(pk__in=[m.pk for m in models]))
        refuse_clash(package, models)
        package.save()
        package.models.set(models)
        changes.note(package, timezone.now(), "added", package.created_by)
