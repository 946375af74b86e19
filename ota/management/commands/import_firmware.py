"""`import_firmware`: adds packages to the library."""

import argparse
import datetime as dt
import logging
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from console.terminal import (
    AnsweringCommand,
    not_as_asked,
    refuse_unknown,
    table,
    visible,
    wrong_call,
)
from fleet import versions
from fleet.models import DeviceModel
from ota import packages, status, storage
from ota.management.versions import firmware_version
from ota.packages import PackageRefused
from ota.storage import StorageAway

logger = logging.getLogger(__name__)

Document = dict[str, Any]

STDIN = Path("-")
_SIGNATURE = ".cfg.sig"
PASSES = 3  # how often packages.add reads a file: its digests, its checksums, the copy


class Command(AnsweringCommand):
    help = (
        "Adds packages to the library; version, date and models are read from the zip where it "
        "tells them. A package that is there already is left as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "files", nargs="+", type=_path, metavar="FILE",
            help="the vendor's zip, a folder with such zips, or - for standard input",
        )  # fmt: skip
        _add_facts(parser)
        parser.add_argument("--notes", default="", metavar="TEXT", help="release notes, Markdown")
        parser.add_argument("--draft", action="store_true", help="do not offer it to devices yet")
        parser.add_argument(
            "--file-name", metavar="NAME",
            help="the vendor's name of what comes from standard input; default: as it is signed",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        _refuse_senseless(options)
        found = list(_found(options["files"]))
        is_shown = self.console.is_terminal and not options["json"]
        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        with Progress(
            *(*columns, TaskProgressColumn(), TimeRemainingColumn()),
            console=self.console,
            disable=not is_shown,
            transient=True,
        ) as progress:
            documents = [_import(each, options, progress) for each in found]
        self.answer(documents, _table(documents), as_json=options["json"])
        if refused := [document["file_name"] for document in documents if document["error"]]:
            not_as_asked(f"Not imported: {', '.join(visible(name) for name in refused)}")


def _add_facts(parser: CommandParser) -> None:
    """What may be said where the zip does not tell it."""
    parser.add_argument(
        "--model", action="append", default=[], metavar="KEY",
        help="a model that the package fits, such as 3-2-0; may be repeated",
    )  # fmt: skip
    parser.add_argument("--product-version", metavar="V", type=firmware_version, help=versions.FORM)
    parser.add_argument("--released", metavar="DATE", type=_day, help="release date, YYYY-MM-DD")
    parser.add_argument(
        "--confirm", action="store_true",
        help="the release date is meant, although the zip says another one",
    )  # fmt: skip
    parser.add_argument(
        "--needs-first", default="", metavar="V", type=firmware_version,
        help="devices with an older version than this have to get it first",
    )  # fmt: skip


def _refuse_senseless(options: dict[str, Any]) -> None:
    known = DeviceModel.objects.filter(key__in=options["model"])
    refuse_unknown("device model", options["model"], known.values_list("key", flat=True))
    times = options["files"].count(STDIN)
    if times > 1:
        wrong_call("Standard input (-) can be read only once.")
    if options["file_name"] and options["files"] != [STDIN]:
        wrong_call("--file-name is for standard input (-) alone; a file has its own name.")
    if times and sys.stdin is not None and sys.stdin.isatty():
        wrong_call("Standard input (-) is this terminal. Pipe the zip in, or name the file.")


class _Found(NamedTuple):
    """A file to import, or why there is nothing to read in its place."""

    path: Path
    error: str = ""


def _found(named: Iterable[Path]) -> Iterator[_Found]:
    """The files in the order given; those of a folder, and below it, in the order of their names."""
    kinds = [(path, stat.S_IFREG if path == STDIN else _kind(path)) for path in named]
    missing = [path for path, kind in kinds if kind not in {stat.S_IFREG, stat.S_IFDIR}]
    if missing:
        shown = ", ".join(visible(str(path)) for path in missing)
        wrong_call(f"No such file or folder: {shown}")
    for path, kind in kinds:
        if kind == stat.S_IFREG:
            yield _Found(path)
            continue
        inside = list(_zips(path))
        if not inside:
            wrong_call(f"There is no zip in {visible(str(path))} nor below it.")
        yield from inside


def _kind(path: Path) -> int:
    """The type as ``stat`` has it, 0 if there is nothing; what may not be looked at counts as a file."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return stat.S_IFREG  # opening it tells what is wrong


def _zips(folder: Path) -> Iterator[_Found]:
    """Links to folders are not followed, so there is no way round in circles."""
    unreadable: list[_Found] = []

    def note(error: OSError) -> None:
        where = Path(str(error.filename))
        unreadable.append(_Found(where, f"{where} cannot be read: {error.strerror}."))

    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            is_zip = name.lower().endswith(".zip") and not name.startswith(".")
            # A pipe would be waited for; a link that leads nowhere is told.
            if is_zip and (path.is_file() or not path.exists()):
                yield _Found(path)
    yield from unreadable


def _import(found: _Found, options: dict[str, Any], progress: Progress) -> Document:
    if found.error:
        return _refused(found.path.name, found.error)
    bar = progress.add_task(visible(_name(found.path)), total=_work(found.path))
    try:
        if found.path != STDIN:
            return _add(found.path, options, progress)
        with _spooled() as path:
            return _add(path, options | {"file_name": _vendors_name(path, options)}, progress)
    except PackageRefused as error:
        option = f" For example: {error.option}" if error.option else ""
        return _refused(_name(found.path), f"{error}{option}")
    except (DatabaseError, InterfaceError):
        raise
    except Exception as error:  # whatever it is, the next may fit
        if unreadable := _unreadable(found.path, error):
            return _refused(_name(found.path), unreadable)
        if not isinstance(error, (StorageAway, *storage.FAILURES)):
            logger.exception("%s could not be stored", found.path)
        return _refused(_name(found.path), f"{_name(found.path)} could not be stored: {error}")
    finally:
        progress.remove_task(bar)


def _add(path: Path, options: dict[str, Any], progress: Progress) -> Document:
    bar = progress.task_ids[-1]
    progress.update(bar, total=_work(path))
    package, is_new = packages.add(
        path,
        models=options["model"],
        version=options["product_version"],
        released_on=options["released"],
        notes=options["notes"],
        draft=options["draft"],
        minimum_version=options["needs_first"],
        confirmed=options["confirm"],
        file_name=options["file_name"],
        on_bytes=lambda count: progress.advance(bar, count),
    )
    return status.of_package(package) | {"created": is_new, "error": None}


def _work(path: Path) -> int | None:
    """How many bytes will be read, if that is known."""
    try:
        return None if path == STDIN else PASSES * path.stat().st_size
    except OSError:
        return None  # opening it tells what is wrong


@contextmanager
def _spooled() -> Iterator[Path]:
    """What comes from standard input, as a file beside the packages: another disk may be small."""
    folder = storage.folder() if storage.is_folder() else None
    with NamedTemporaryFile(dir=folder, prefix="stdin-", suffix=".part") as file:
        if sys.stdin is not None:  # None is a closed one
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.flush()
        if not file.tell():
            raise PackageRefused(
                "Nothing came from standard input. Does the command before the pipe work?"
            )
        yield Path(file.name)


def _vendors_name(path: Path, options: dict[str, Any]) -> str:
    """As it was said, or as the signature entry inside is called."""
    if options["file_name"]:
        return str(options["file_name"])
    with path.open("rb") as file:
        packages.inspect(file, _name(STDIN))
    with zipfile.ZipFile(path) as content:
        at_top = (name for name in content.namelist() if not {"/", "\\"} & set(name))
        signed = next(name for name in at_top if name.endswith(_SIGNATURE))
    return f"{signed.removesuffix(_SIGNATURE)}.zip"


def _name(path: Path) -> str:
    return "standard input" if path == STDIN else path.name


def _unreadable(path: Path, error: Exception) -> str:
    """What is wrong with the file itself; empty if it is something else."""
    if not isinstance(error, OSError) or error.filename is None:
        return ""
    if Path(os.fsdecode(error.filename)) != path:
        return ""
    return f"{path} cannot be read: {error.strerror}. Look at its owner and its rights."


def _refused(name: str, error: str) -> Document:
    empty = ("version", "released_on", "size", "md5", "state", "minimum_version")
    head: Document = {"id": None, "file_name": visible(name), "models": []}
    return head | dict.fromkeys(empty) | {"created": False, "error": visible(error)}


def _table(documents: list[Document]) -> Any:
    return table(
        ["File", "Version", "Models", "Released", "Size", "State", "Outcome"],
        [
            (
                each["file_name"],
                each["version"],
                " ".join(each["models"]),
                each["released_on"],
                each["size"],
                each["state"],
                each["error"] or ("added" if each["created"] else "was there already"),
            )
            for each in documents
        ],
    )


def _path(text: str) -> Path:
    if not text:  # as a path it would be this folder
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date; expected YYYY-MM-DD, such as 2024-11-07"
        ) from error
