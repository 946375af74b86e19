"""What a vendor's zip tells about itself, and whether it is whole and harmless; nothing is unpacked."""

import datetime as dt
import io
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fleet import versions

MOST_ENTRIES = 10_000
MOST_RATIO = 100  # unpacked to packed; firmware is encrypted and hardly shrinks
LARGEST_DIRECTORY = 4 << 20  # bytes; zipfile reads it at once

_SIGNATURE = ".cfg.sig"
_VERSION = re.compile(
    r"v?(\d{2}\.\d{2}\.(?:\d{4}|\d{2}\.\d{2}))(?=$|\.[a-z])", re.IGNORECASE | re.ASCII
)
_DAY = re.compile(r"(\d{8})(?!\d)", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9-]{1,40}", re.ASCII)


class PackageRefused(ValueError):
    """A file that cannot become a package; the message says what, which file, and what to do."""


class Inspection(NamedTuple):
    """What a zip tells about itself; empty, or None, where it does not.

    ``is_version_inside``: the version is from the zip's signature entry, not only from its name.
    """

    product_code: str
    version: str
    is_version_inside: bool
    released_on: dt.date | None


def inspect(path: Path, file_name: str = "") -> Inspection:
    """Reads a zip's directory, and unpacks nothing; ``file_name`` is the vendor's, if not the path's.

    Raises:
        PackageRefused: it is no firmware zip, it is damaged, or a name in it is not safe.
    """
    name = file_name or path.name
    entries = _directory(path, name)
    _refuse_unsafe(entries, path.stat().st_size, name)
    signatures = [entry.filename for entry in entries if _is_signature(entry.filename)]
    if not signatures:
        raise PackageRefused(
            f"{name} is no firmware package: it has no {_SIGNATURE} file at the top level. "
            "Use the zip from the vendor's download page, as it is."
        )
    return _told(signatures[0], name)


class _Bounded(io.FileIO):
    """A file that hands out no more than a directory's worth at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("the directory is too large")
        return super().read(LARGEST_DIRECTORY if size is None or size < 0 else size) or b""


def _directory(path: Path, name: str) -> list[zipfile.ZipInfo]:
    """The entries of a zip that is whole as far as its directory tells."""
    try:
        with _Bounded(str(path)) as file:
            start = file.read(4)
            with zipfile.ZipFile(file) as package:
                entries, end = package.infolist(), package.start_dir
    except FileNotFoundError as error:
        raise PackageRefused(f"{name} is not there. Check the path.") from error
    # zipfile meets a damaged file with any of these.
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError) as error:
        raise PackageRefused(
            f"{name} is no zip, or it is damaged or cut off ({error}). Download it again."
        ) from error
    if not entries:
        raise PackageRefused(f"{name} is an empty zip. Download it again.")
    if start != b"PK\x03\x04" or any(_lies_outside(entry, end) for entry in entries):
        raise PackageRefused(
            f"{name} is damaged: its directory does not fit its content. Download it again."
        )
    return entries


def _lies_outside(entry: zipfile.ZipInfo, end: int) -> bool:
    return entry.header_offset < 0 or entry.header_offset + entry.compress_size > end


def _refuse_unsafe(entries: Sequence[zipfile.ZipInfo], size: int, name: str) -> None:
    advice = "Use the zip from the vendor's download page, as it is."
    if len(entries) > MOST_ENTRIES:
        raise PackageRefused(
            f"{name} has {len(entries)} entries; at most {MOST_ENTRIES} are taken. {advice}"
        )
    if sum(entry.file_size for entry in entries) > size * MOST_RATIO:
        raise PackageRefused(
            f"{name} would unpack to more than {MOST_RATIO} times its size. {advice}"
        )
    for entry in entries:
        if entry.flag_bits & 1:
            raise PackageRefused(f"{name} is encrypted ({entry.filename!r}). {advice}")
        if _is_unsafe(entry.orig_filename):
            raise PackageRefused(f"{name} has an unsafe entry {entry.orig_filename!r}. {advice}")


def _is_unsafe(entry: str) -> bool:
    parts = re.split(r"[/\\]", entry)
    return not parts[0] or ".." in parts or "\x00" in entry or parts[0].endswith(":")


def _is_signature(entry: str) -> bool:
    return entry.endswith(_SIGNATURE) and not re.search(r"[/\\]", entry)


def _told(entry: str, name: str) -> Inspection:
    """What ``<product>_<code>_v<version>_<yyyymmdd>.<...>.cfg.sig`` tells, in whatever order."""
    parts = entry.removesuffix(_SIGNATURE).split("_")
    inside = _first_version(parts)
    is_code = len(parts) > 1 and _CODE.fullmatch(parts[0])
    return Inspection(
        product_code=parts[0] if is_code else "",
        version=inside or _first_version(name.rpartition(".")[0].split("_")),
        is_version_inside=bool(inside),
        released_on=next((day for part in parts if (day := _day(part))), None),
    )


def _first_version(parts: Sequence[str]) -> str:
    found = (match for part in parts if (match := _VERSION.match(part)))
    return next((versions.canonical(match[1]) for match in found), "")


def _day(text: str) -> dt.date | None:
    match = _DAY.match(text)
    try:
        return dt.date.fromisoformat(match[1]) if match else None
    except ValueError:  # eight digits that are no day
        return None
