"""What a vendor's zip tells about itself, and whether it is whole and harmless; nothing is unpacked."""

import datetime as dt
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from fleet import versions

MOST_ENTRIES = 10_000
MOST_RATIO = 100  # unpacked to packed; firmware is encrypted and hardly shrinks
LARGEST_DIRECTORY = 4 << 20  # bytes; zipfile reads it at once

PIECE = 1 << 20  # bytes, read at once

# zipfile meets a damaged file with any of these.
_DAMAGE = (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError)

_SIGNATURE = ".cfg.sig"
_VERSION = re.compile(
    r"v?(\d{2}\.\d{2}\.(?:\d{4}|\d{2}\.\d{2}))(?=$|\.[a-z])", re.IGNORECASE | re.ASCII
)
_DAY = re.compile(r"(\d{8})(?!\d)", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9-]{1,40}", re.ASCII)


class PackageRefused(ValueError):
    """A file that cannot become a package; the message says what, which file, and what to do.

    ``field`` is the choice to change: ``file``, ``version``, ``released_on``, ``models`` or
    ``minimum_version``.
    """

    def __init__(self, message: str, field: str = "file") -> None:
        super().__init__(message)
        self.field = field


class Told(NamedTuple):
    """What a name tells; empty, or None, where it does not."""

    product_code: str
    version: str
    released_on: dt.date | None


class Inspection(NamedTuple):
    """What a package tells: its signature entry, and its file name."""

    entry: Told
    name: Told


def inspect(file: BinaryIO, name: str) -> Inspection:
    """Reads a zip's directory, and unpacks nothing; ``name`` is the vendor's name of the file.

    Raises:
        PackageRefused: it is no firmware zip, it is damaged, or a name in it is not safe.
    """
    entries = _directory(file, name)
    _refuse_unsafe(entries, file.seek(0, io.SEEK_END), name)
    signatures = [entry.filename for entry in entries if _is_signature(entry.filename)]
    if not signatures:
        raise PackageRefused(
            f"{name} is no firmware package: it has no {_SIGNATURE} file at the top level. "
            "Use the zip from the vendor's download page, as it is."
        )
    entry = signatures[0].removesuffix(_SIGNATURE)
    return Inspection(_told(entry), _told(name.rpartition(".")[0]))


def verify(file: BinaryIO, name: str, on_bytes: Callable[[int], None] | None = None) -> None:
    """Reads every entry to its end and compares its checksum; nothing is kept.

    ``on_bytes`` is told how many more bytes of the zip are done.

    Raises:
        PackageRefused: an entry is not what the directory says.
    """
    with zipfile.ZipFile(file) as package:
        for entry in package.infolist():
            try:
                with package.open(entry) as content:
                    while content.read(PIECE):
                        pass
            # zipfile and the decompressors meet damage with any of these.
            except (*_DAMAGE, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise PackageRefused(
                    f"{name} is damaged: {entry.filename!r} cannot be read as it was packed "
                    f"({error}). Download it again."
                ) from error
            if on_bytes:
                on_bytes(entry.compress_size)


class _Bounded(io.RawIOBase):
    """A file that hands out no more than a directory's worth at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("the directory is too large")
        return self._file.read(LARGEST_DIRECTORY if size is None or size < 0 else size)


def _directory(file: BinaryIO, name: str) -> list[zipfile.ZipInfo]:
    """The entries of a zip that is whole as far as its directory tells."""
    try:
        file.seek(0)
        start = file.read(4)
        with zipfile.ZipFile(_Bounded(file)) as package:
            entries, end = package.infolist(), package.start_dir
    except _DAMAGE as error:
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


def _told(text: str) -> Told:
    """What ``<product>_<code>_v<version>_<yyyymmdd>.<...>`` tells, in whatever order."""
    parts = text.split("_")
    is_code = len(parts) > 1 and _CODE.fullmatch(parts[0])
    return Told(
        product_code=parts[0] if is_code else "",
        version=_first_version(parts),
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
