"""Two made-up packages for each series of docks and aircraft, so that there is something to upgrade to."""

import tempfile
from pathlib import Path

from ota import packages
from ota.models import FirmwarePackage
from simulator.packages import SERIES, Release, Series, build


def fill(scratch: Path, size: int) -> int:
    """Adds the packages that the library lacks, each of ``size`` bytes; returns how many it added."""
    lacking = [
        (series, release)
        for series in SERIES.values()
        for release in (series.older, series.newer)
        if not _is_known(series, release)
    ]
    for series, release in lacking:
        _add(scratch, series, release, size)
    return len(lacking)


def _is_known(series: Series, release: Release) -> bool:
    return FirmwarePackage.objects.filter(
        version=release.version, models__key=series.model_keys[0]
    ).exists()


def _add(scratch: Path, series: Series, release: Release, size: int) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = build(Path(folder), series.name, release.version, release.released, size)
        packages.add(path, models=series.model_keys, notes="Made up for the demo.")
