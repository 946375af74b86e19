"""`import_firmware`: adds packages to the library."""

import argparse
import datetime as dt
import logging
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from rich.progress import track

from fleet import versions
from fleet.models import DeviceModel
from fleet.terminal import (
    AnsweringCommand,
    firmware_version,
    not_as_asked,
    refuse_unknown,
    table,
    visible,
    wrong_call,
)
from ota import packages, status

logger = logging.getLogger(__name__)

Document = dict[str, Any]


class Command(AnsweringCommand):
    help = (
        "Adds packages to the library; version, date and models are read from the zip where it "
        "tells them. A package that is there already is left as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the vendor's zip")
        parser.add_argument(
            "--model", action="append", default=[], metavar="KEY",
            help="a model that the package fits, such as 3-2-0; may be repeated",
        )  # fmt: skip
        parser.add_argument(
            "--product-version", metavar="V", type=firmware_version, help=versions.FORM
        )
        parser.add_argument(
            "--released", metavar="DATE", type=_day, help="release date, YYYY-MM-DD"
        )
        parser.add_argument(
            "--confirm", action="store_true",
            help="the release date is meant, although the zip says another one",
        )  # fmt: skip
        parser.add_argument("--notes", default="", metavar="TEXT", help="release notes")
        parser.add_argument("--draft", action="store_true", help="do not offer it to devices yet")

    def handle(self, *args: Any, **options: Any) -> None:
        if missing := [str(path) for path in options["files"] if not path.is_file()]:
            wrong_call(f"No such file: {', '.join(missing)}")
        known = DeviceModel.objects.filter(key__in=options["model"])
        refuse_unknown("device model", options["model"], known.values_list("key", flat=True))
        is_shown = self.console.is_terminal and not options["json"]
        files = track(
            options["files"],
            "Importing",
            console=self.console,
            disable=not is_shown,
            transient=True,
        )
        documents = [_import(path, options) for path in files]
        self.answer(documents, _table(documents), as_json=options["json"])
        if refused := [document["file_name"] for document in documents if document["error"]]:
            not_as_asked(f"Not imported: {', '.join(visible(name) for name in refused)}")


def _import(path: Path, options: dict[str, Any]) -> Document:
    try:
        package, is_new = packages.add(
            path,
            models=options["model"],
            version=options["product_version"],
            released_on=options["released"],
            notes=options["notes"],
            draft=options["draft"],
            confirmed=options["confirm"],
        )
    except packages.PackageRefused as error:
        return _refused(path, str(error))
    except (DatabaseError, InterfaceError):
        raise
    except Exception as error:  # whatever a full or absent storage raises; the next may fit
        logger.exception("%s could not be stored", path)
        return _refused(path, f"{path.name} could not be stored: {error}")
    return status.of_package(package) | {"created": is_new, "error": None}


def _refused(path: Path, error: str) -> Document:
    empty = dict.fromkeys(("version", "released_on", "size", "md5", "state"))
    head: Document = {"id": None, "file_name": path.name, "models": []}
    return head | empty | {"created": False, "error": error}


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


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date; expected YYYY-MM-DD, such as 2024-11-07"
        ) from error
