"""`clean_library`: removes files that nobody needs, and reports packages whose file is gone."""

import datetime as dt
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import RenderableType

from console.counts import count
from console.sizes import shown_size
from console.terminal import AnsweringCommand, not_as_asked, table, wrong_call
from ota import storage, uploads
from ota.models import FirmwarePackage, Upload
from ota.states import PackageState
from ota.storage import FileMissing, Listed, StorageAway

# A file that is being added has no row yet.
OLD_ENOUGH = dt.timedelta(hours=1)

Document = dict[str, Any]


class Command(AnsweringCommand):
    help = (
        "Removes the files of the library that belong to no package and no upload, and uploads that "
        "have expired; reports packages whose file is gone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="only show what would go")

    def handle(self, *args: Any, **options: Any) -> None:
        now, is_dry = timezone.now(), bool(options["dry_run"])
        try:
            with storage.reached():
                document = _clean(now, is_dry=is_dry)
        except StorageAway as error:
            raise CommandError(f"The storage of the packages does not answer: {error}") from error
        self.answer(document, *_shown(document), as_json=options["json"])
        if document["missing"]:
            not_as_asked("The files of some packages are gone. Add their zips again.")


def _refuse_all(removed: list[Listed]) -> None:
    """A database that knows nothing is more likely the wrong one than an empty library."""
    if removed and not FirmwarePackage.objects.exists():
        wrong_call(
            f"The database knows no package, and {count(len(removed), 'file')} would go. Look at "
            "DATABASE_URL; --dry-run shows the files."
        )


def _clean(now: dt.datetime, *, is_dry: bool) -> Document:
    idle = [upload for upload in Upload.objects.all() if uploads.expires_at(upload) < now]
    expired = [Listed(upload.key, upload.offset, upload.changed_at) for upload in idle]
    packages = FirmwarePackage.objects.filter(purged_at=None).exclude(file="")
    is_there = not storage.is_folder() or storage.path(storage.FOLDER).exists()
    found = list(storage.listing()) if is_there or packages.exists() else []
    removed = [file for file in found if _is_left_over(file, now)]
    if not is_dry:
        _refuse_all(removed)
        for file in removed:
            storage.remove(file.name)
        uploads.expire(now)
    listed = {file.name for file in found}
    needed = packages.exclude(state=PackageState.WITHDRAWN)  # its zip, added again, is not kept
    return _document(
        expired + removed, [p for p in needed if _is_missing(p, listed)], is_dry=is_dry
    )


def _is_left_over(file: Listed, now: dt.datetime) -> bool:
    """Asked for each file right before it goes; uploads first, for they become packages."""
    if file.changed_at > now - OLD_ENOUGH:
        return False
    if Upload.objects.filter(key=file.name).exists():
        return False
    return not FirmwarePackage.objects.filter(file=file.name, purged_at=None).exists()


def _is_missing(package: FirmwarePackage, listed: set[str]) -> bool:
    """Looked at once more: it may have come after the list was made."""
    if package.file.name in listed:
        return False
    try:
        storage.stat(str(package.file.name))
    except FileMissing:
        return FirmwarePackage.objects.filter(pk=package.pk, file=package.file.name).exists()
    return False


def _document(removed: list[Listed], missing: list[FirmwarePackage], *, is_dry: bool) -> Document:
    return {
        "removed": [{"name": file.name, "size": file.size} for file in removed],
        "missing": [{"id": package.pk, "file_name": package.file_name} for package in missing],
        "dry_run": is_dry,
    }


def _shown(document: Document) -> list[RenderableType]:
    shown: list[RenderableType] = []
    removed, missing = document["removed"], document["missing"]
    if removed:
        title = "Would be removed" if document["dry_run"] else "Removed"
        shown.append(table([title, "Size"], [(f["name"], shown_size(f["size"])) for f in removed]))
    if missing:
        shown.append(
            table(["Package", "Its file is gone"], [(p["id"], p["file_name"]) for p in missing])
        )
    return shown or ["Nothing to do."]
