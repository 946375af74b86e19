"""Firmware packages that are made up but shaped like real ones, and the series that they are for."""

import random
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType

VERSION = re.compile(r"\d{2}\.\d{2}\.\d{4}", re.ASCII)
SMALLEST = 4096
_MODULES = ("0100", "0802", "1301")
_CHUNK = 1 << 20
# Room for the directory of the zip and for the signed configuration.
_OVERHEAD = 1536


@dataclass(frozen=True)
class Release:
    """A version in the form NN.NN.NNNN, and the day on which it came out."""

    version: str
    released: date


@dataclass(frozen=True)
class Series:
    """A product that has its own package: the model keys it fits, and what was released for it.

    `factory` is the version with which simulated devices start; it is lower than both releases.
    """

    name: str
    code: str
    model_keys: tuple[str, ...]
    factory: str
    older: Release
    newer: Release


_DOCK1_DAYS = (date(2024, 7, 18), date(2024, 9, 5))
_DOCK2_DAYS = (date(2024, 11, 7), date(2025, 9, 15))
_DOCK3_DAYS = (date(2025, 4, 15), date(2026, 4, 1))


def _series(
    name: str,
    code: str,
    keys: tuple[str, ...],
    versions: tuple[str, str, str],
    days: tuple[date, date],
) -> Series:
    factory, older, newer = versions
    return Series(name, code, keys, factory, Release(older, days[0]), Release(newer, days[1]))


SERIES: Mapping[str, Series] = MappingProxyType(
    {
        each.name: each
        for each in (
            _series(
                "DOCK1",
                "wm9s1",
                ("3-1-0",),
                ("01.06.1704", "10.01.0203", "10.01.0205"),
                _DOCK1_DAYS,
            ),
            _series(
                "M30",
                "wm9a1",
                ("0-67-0", "0-67-1"),
                ("09.01.0006", "10.01.0014", "14.03.0110"),
                _DOCK1_DAYS,
            ),
            _series(
                "DOCK2",
                "wm9s2",
                ("3-2-0",),
                ("10.01.1607", "10.01.3205", "14.03.0915"),
                _DOCK2_DAYS,
            ),
            _series(
                "M3D",
                "wm9a2",
                ("0-91-0", "0-91-1"),
                ("10.01.1607", "10.01.3205", "14.03.0915"),
                _DOCK2_DAYS,
            ),
            _series(
                "DOCK3",
                "wm9s3",
                ("3-3-0",),
                ("01.00.0001", "13.01.0204", "17.07.0401"),
                _DOCK3_DAYS,
            ),
            _series(
                "M4D",
                "wm9a3",
                ("0-100-0", "0-100-1"),
                ("01.00.0001", "13.01.0204", "17.07.0401"),
                _DOCK3_DAYS,
            ),
        )
    }
)


def series_of(model_key: str) -> Series:
    """Return the series of the device model `3-2-0`, `0-91-1` … Raises ValueError for others."""
    for each in SERIES.values():
        if model_key in each.model_keys:
            return each
    raise ValueError(f"No series has the model key {model_key!r}.")


def build(folder: Path, series: str, version: str, released: date, size: int) -> Path:
    """Write a package of about `size` bytes in total, stored uncompressed, and return its path.

    The same arguments give the same bytes. The zip's root has `<model>_<code>_v<version>_<yyyymmdd>.pro.cfg.sig`.
    Raises ValueError for an unknown series, a version not in the form NN.NN.NNNN, or a size under SMALLEST.
    Source: DJI Cloud API demo, how it reads an uploaded firmware file.
    """
    _check(series, version, size)
    stem = f"{SERIES[series].code}_0000_v{version}_{released:%Y%m%d}"
    target = folder / f"{series}_V{version}.zip"
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as package:
        _write_modules(package, f"{series}:{version}", stem, size)
        package.writestr(_entry(f"{stem}.pro.cfg.sig"), f"simulated signature of {stem}\n")
    return part.replace(target)


def _check(series: str, version: str, size: int) -> None:
    if series not in SERIES:
        raise ValueError(f"Unknown series {series!r}. Known: {', '.join(SERIES)}.")
    if not VERSION.fullmatch(version):
        raise ValueError(f"Version {version!r} is not in the form NN.NN.NNNN.")
    if size < SMALLEST:
        raise ValueError(f"A package has at least {SMALLEST} bytes, not {size}.")


def _write_modules(package: zipfile.ZipFile, seed: str, stem: str, size: int) -> None:
    share = (size - _OVERHEAD) // len(_MODULES)
    for module in _MODULES:
        entry = _entry(f"{stem.replace('_0000_', f'_{module}_')}.pro.fw.sig")
        with package.open(entry, "w", force_zip64=share > 1 << 31) as stream:
            for chunk in _bytes(f"{seed}:{module}", share):
                stream.write(chunk)


def _entry(name: str) -> zipfile.ZipInfo:
    # A fixed time keeps the bytes, and so the md5, the same on each day.
    return zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0))


def _bytes(seed: str, count: int) -> Iterator[bytes]:
    source = random.Random(seed)  # noqa: S311 (reproducible filler, no secret)
    for start in range(0, count, _CHUNK):
        yield source.randbytes(min(_CHUNK, count - start))
