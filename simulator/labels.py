"""Whether a package that was fetched is for the device that fetched it. The package says so at its end."""

import io
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

from simulator import packages

# Bytes of a package that a dock keeps: room for the directory of a few hundred files.
KEPT = 64 * 1024

# Result codes of the device. DJI Cloud API: error codes, group 312 (firmware).
NOT_VALID = 312003
OTHER_VERSION = 312017
NOT_UNPACKED = 312026

_SIGNED = re.compile(
    r"(?P<code>[^_/]+)_(?:[^/]*_)?[vV]?(?P<version>\d{2}\.\d{2}\.\d{2}\.?\d{2})_[^/]*\.cfg\.sig",
    re.ASCII,
)


class UnfitError(Exception):
    """The package is not for this device; `code` is the device's result code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class End(io.RawIOBase):
    """A file of `size` bytes of which only the last ones are kept, at the places where they stand in it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._start = max(0, size - KEPT)
        self._kept = bytearray()
        self._place = 0

    def add(self, offset: int, chunk: bytes) -> None:
        """Take the next bytes of the file, those from `offset` on."""
        self._kept += chunk[max(0, self._start - offset) :]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        )
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises OSError for what was not kept."""
        if self._place < self._start:
            raise OSError("not kept")
        place = self._place - self._start
        found = self._kept[place : place + len(buffer)]
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


@dataclass(frozen=True)
class Label:
    """What a package is: the code of its product, and its version in the form NN.NN.NNNN."""

    code: str
    version: str


def check(end: End, model_key: str, version: str) -> None:
    """Raise UnfitError where a device of the model would not install the package as `version`.

    Its product has to be that of the model, and its version that of the command, so it is also the one that the
    device has afterwards. What is no zip, or says nothing about itself, is refused too. A product that nobody
    simulates fits every model: packages for real docks can be tried, and only their version is compared.
    """
    label = _read(end)
    own = packages.series_of(model_key).code
    others = {series.code for series in packages.SERIES.values()} - {own}
    if label.code in others:
        raise UnfitError(NOT_VALID, f"a package for {label.code}, not for {own}")
    if label.version != version:
        raise UnfitError(OTHER_VERSION, f"version {label.version} instead of {version}")


def _read(end: End) -> Label:
    try:
        with zipfile.ZipFile(end) as package:
            names = package.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnfitError(NOT_UNPACKED, f"no zip that can be read: {error}") from error
    return _label(names)


def _label(names: Iterable[str]) -> Label:
    """Source: DJI Cloud API demo, how it reads an uploaded firmware file."""
    for name in names:
        if signed := _SIGNED.fullmatch(name):
            *groups, last = signed["version"].split(".", 2)
            return Label(signed["code"], ".".join([*groups, last.replace(".", "")]))
    raise UnfitError(NOT_VALID, "nothing in it tells its product and version")
