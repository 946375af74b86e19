"""Made-up packages have the shape of real ones."""

import hashlib
import re
import zipfile
from datetime import date
from pathlib import Path

import pytest

from simulator import packages

DAY = date(2024, 11, 7)
SIGNED = re.compile(r"wm\w+_0000_v10\.01\.3206_20241107\.pro\.cfg\.sig")


def test_a_package_names_its_version_in_the_root_of_the_zip(tmp_path: Path) -> None:
    path = packages.build(tmp_path, "DOCK2", "10.01.3206", DAY, 100_000)
    assert path.name == "DOCK2_V10.01.3206.zip"
    with zipfile.ZipFile(path) as package:
        assert package.testzip() is None
        assert [name for name in package.namelist() if SIGNED.fullmatch(name)]
        assert len(package.namelist()) == 4


@pytest.mark.parametrize("size", [packages.SMALLEST, 100_000, 3_000_000])
def test_a_package_has_about_the_size_that_was_asked_for(tmp_path: Path, size: int) -> None:
    path = packages.build(tmp_path, "M3D", "10.01.3206", DAY, size)
    assert abs(path.stat().st_size - size) < 1024


def test_the_same_package_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    digests = set()
    for _ in range(2):
        path = packages.build(tmp_path, "M30", "10.01.0014", DAY, 50_000)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_packages_of_two_versions_differ(tmp_path: Path) -> None:
    paths = [packages.build(tmp_path, "M30", v, DAY, 50_000) for v in ("10.01.0014", "10.01.0015")]
    assert paths[0].read_bytes() != paths[1].read_bytes()


@pytest.mark.parametrize(
    ("series", "version", "size", "message"),
    [
        ("DOCK9", "10.01.3206", 9999, "Unknown series"),
        ("DOCK2", "10.1.3206", 9999, "not in the form"),
        ("DOCK2", "10.01.3206", 10, "at least"),
    ],
)
def test_an_impossible_package_says_why(
    tmp_path: Path, series: str, version: str, size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        packages.build(tmp_path, series, version, DAY, size)
    assert not list(tmp_path.iterdir())


def test_each_series_has_releases_that_follow_its_factory_version() -> None:
    for series in packages.SERIES.values():
        assert series.factory < series.older.version < series.newer.version
        assert series.older.released < series.newer.released


def test_every_model_key_has_one_series() -> None:
    keys = [key for series in packages.SERIES.values() for key in series.model_keys]
    assert len(keys) == len(set(keys)) == 9
    with pytest.raises(ValueError, match="No series"):
        packages.series_of("0-1-0")
