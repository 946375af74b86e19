"""What a vendor's zip tells about itself, and whether it is whole and harmless; nothing is unpacked."""

import datetime as dt
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from fleet import versions

MOST_ENTRIES = 10_000
MOST_RATIO = 100  # unpacked to packed; firmware is encrypted and hardly shrinks
SMALL = 1 << 20  # bytes; an entry up to this size may shrink as it likes
MOST_UNPACKED = 16 << 30  # bytes; what a worker reads in a minute or two
LARGEST_DIRECTORY = 2 << 20  # bytes; zipfile reads it at once

PIECE = 1 << 20  # bytes, read at once
LONGEST_SHOWN = 80  # characters of an entry's name in a message

# Unlike these two, Python's bzip2 and LZMA put no limit to what a few bytes unpack to at once.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_LOCAL_HEADER = 30  # bytes, before the name
_DOS_FOLDER = 0x10
_UNIX = 3

_AS_IT_IS = "Use the zip from the vendor's download page, as it is."

_SIGNATURE = ".cfg.sig"
_VERSION = re.compile(
    r"v?(\d{2}\.\d{2}\.(?:\d{4}|\d{2}\.\d{2}))(?=$|\.[a-z])", re.IGNORECASE | re.ASCII
)
_DAY = re.compile(r"(\d{8})(?!\d)", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9-]{1,40}", re.ASCII)


class _OutOfBounds(OSError):
    """A directory that points to where no file can have anything."""


# zipfile and zlib meet a damaged file with any of these; not with OSError, which is the storage's.
_DAMAGE = (
    *(zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, _OutOfBounds),
    *(RuntimeError, EOFError, zlib.error),
)


class PackageRefused(ValueError):
    """A file that cannot become a package; the message says what, which file, and what to do.

    ``field`` is the choice to change: ``file``, ``version``, ``released_on``, ``models``,
    ``minimum_version`` or ``notes``. ``option`` is what says it on the command line, if people have
    to say more.
    """

    def __init__(self, message: str, field: str = "file", option: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.option = option


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
    entries, _ = _entries(file, name)
    signatures = [entry for entry in entries if _is_signature(entry)]
    if not signatures:
        raise PackageRefused(
            f"{name} is no firmware package: it has no {_SIGNATURE} file at the top level. "
            f"{_AS_IT_IS}"
        )
    return Inspection(_told_by(signatures, name), _told(name.rpartition(".")[0]))


def verify(file: BinaryIO, name: str, on_bytes: Callable[[int], None] | None = None) -> None:
    """Reads every entry to its end and compares its checksum; nothing is kept.

    ``on_bytes`` is told how many more bytes of the zip are done; what it raises ends the reading.

    Raises:
        PackageRefused: an entry is not what the directory says.
    """
    entries, end = _entries(file, name)
    starts = [entry.header_offset for entry in entries[1:]] + [end]
    with zipfile.ZipFile(_Bounded(file)) as package:
        for entry, limit in zip(entries, starts, strict=True):
            try:
                _refuse_long(file, entry, limit)
                _read(package, entry, on_bytes or _ignore)
            except _DAMAGE as error:
                raise PackageRefused(
                    f"{name} is damaged: {_shown(entry.filename)} cannot be read as it was packed "
                    f"({error}). Download it again."
                ) from error


def _refuse_long(file: BinaryIO, entry: zipfile.ZipInfo, limit: int) -> None:
    """The entry's own header, unlike the directory, tells where its data begins."""
    file.seek(entry.header_offset + _LOCAL_HEADER - 4)
    name, extra = struct.unpack("<HH", file.read(4))
    if entry.header_offset + _LOCAL_HEADER + name + extra + entry.compress_size > limit:
        raise zipfile.BadZipFile("it overlaps with another entry")


def _read(
    package: zipfile.ZipFile, entry: zipfile.ZipInfo, on_bytes: Callable[[int], None]
) -> None:
    done = told = 0
    with package.open(entry) as content:
        while piece := content.read(PIECE):
            done += len(piece)
            share = entry.compress_size * done // entry.file_size
            on_bytes(share - told)
            told = share
    if done != entry.file_size:
        raise zipfile.BadZipFile(f"{done:,} of {entry.file_size:,} bytes")
    on_bytes(entry.compress_size - told)


def _ignore(_: int) -> None:
    """Nobody wants to know."""


class _Bounded(io.RawIOBase):
    """A file that hands out no more than a directory's worth at once, and nothing out of its bounds."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._size}[whence]
        if not 0 <= start + offset <= self._size:
            raise _OutOfBounds("a place beyond its end")
        return self._file.seek(start + offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("the directory is too large")
        return self._file.read(LARGEST_DIRECTORY if size is None or size < 0 else size)


def _entries(file: BinaryIO, name: str) -> tuple[list[zipfile.ZipInfo], int]:
    """The entries in the order of their places, and where the last one has to end.

    Raises:
        PackageRefused: as far as the directory tells, the zip is not whole or not harmless.
    """
    entries, end = _directory(file, name)
    _refuse_unsafe(entries, name)
    _refuse_bomb(entries, file.seek(0, io.SEEK_END), name)
    return entries, end


def _directory(file: BinaryIO, name: str) -> tuple[list[zipfile.ZipInfo], int]:
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
    entries.sort(key=lambda entry: entry.header_offset)
    if start != b"PK\x03\x04" or entries[0].header_offset < 0 or _least_end(entries[-1]) > end:
        raise PackageRefused(
            f"{name} is damaged: its directory does not fit its content. Download it again."
        )
    return entries, end


def _least_end(entry: zipfile.ZipInfo) -> int:
    """Where an entry ends, or further on."""
    return entry.header_offset + _LOCAL_HEADER + len(entry.orig_filename) + entry.compress_size


def _refuse_bomb(entries: Sequence[zipfile.ZipInfo], size: int, name: str) -> None:
    """No matter what the entries unpack to: reading them must not take for ever."""
    total = sum(entry.file_size for entry in entries)
    if total > size * MOST_RATIO:
        raise PackageRefused(
            f"{name} would unpack to more than {MOST_RATIO} times its size. {_AS_IT_IS}"
        )
    if total > MOST_UNPACKED:
        raise PackageRefused(
            f"{name} would unpack to {total:,} bytes; at most {MOST_UNPACKED:,} are taken. {_AS_IT_IS}"
        )
    for entry in entries:
        if entry.file_size > max(SMALL, entry.compress_size * MOST_RATIO):
            raise PackageRefused(
                f"{name}: {_shown(entry.filename)} would unpack to more than {MOST_RATIO} times "
                f"its size. {_AS_IT_IS}"
            )
    for entry, following in pairwise(entries):
        if _least_end(entry) > following.header_offset:
            raise PackageRefused(
                f"{name}: {_shown(entry.filename)} and {_shown(following.filename)} overlap. "
                f"{_AS_IT_IS}"
            )


def _refuse_unsafe(entries: Sequence[zipfile.ZipInfo], name: str) -> None:
    if len(entries) > MOST_ENTRIES:
        raise PackageRefused(
            f"{name} has {len(entries):,} entries; at most {MOST_ENTRIES:,} are taken. {_AS_IT_IS}"
        )
    seen: set[str] = set()
    for entry in entries:
        if wrong := _wrong(entry, seen):
            raise PackageRefused(f"{name} {wrong}. {_AS_IT_IS}")
        seen.add(entry.filename)


def _wrong(entry: zipfile.ZipInfo, seen: Collection[str]) -> str:
    """What keeps an entry from being taken, after those that were seen; empty if nothing does."""
    shown = _shown(entry.orig_filename)
    if entry.flag_bits & 1:
        return f"is encrypted ({shown})"
    if _is_unsafe(entry.orig_filename):
        return f"has an unsafe entry {shown}"
    if entry.compress_type not in _METHODS:
        return f"packs {shown} by a method that is not taken (number {entry.compress_type})"
    if _kind(entry) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return f"has an entry {shown} that is a link or a device, not a file"
    if entry.filename in seen:
        return f"has two entries {shown}"
    return ""


def _kind(entry: zipfile.ZipInfo) -> int:
    """The type of a file as Unix has it; 0 if it was not packed there."""
    return stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0


def _shown(entry: str) -> str:
    """A name as it may stand in a message: without control and bidi characters, and not too long."""
    more = "…" if len(entry) > LONGEST_SHOWN else ""
    return f"{entry[:LONGEST_SHOWN]!r}{more}"


def _is_unsafe(entry: str) -> bool:
    parts = re.split(r"[/\\]", entry)
    return not parts[0] or ".." in parts or "\x00" in entry or parts[0].endswith(":")


def _is_signature(entry: zipfile.ZipInfo) -> bool:
    is_folder = _kind(entry) == stat.S_IFDIR or entry.external_attr & _DOS_FOLDER
    is_at_top = not re.search(r"[/\\]", entry.filename)
    return is_at_top and not is_folder and entry.filename.endswith(_SIGNATURE)


def _told_by(signatures: Sequence[zipfile.ZipInfo], name: str) -> Told:
    """What all signature entries tell together."""
    told = [_told(entry.filename.removesuffix(_SIGNATURE)) for entry in signatures]
    for values in zip(*told, strict=True):
        if len({value for value in values if value}) > 1:
            shown = ", ".join(_shown(entry.filename) for entry in signatures[:4])
            raise PackageRefused(f"{name} contradicts itself: it is signed as {shown}. {_AS_IT_IS}")
    codes, numbers, days = zip(*told, strict=True)
    return Told(max(codes), max(numbers), next(filter(None, days), None))


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
