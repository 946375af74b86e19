"""The demo's packages: two for each series, added once."""

from pathlib import Path

import pytest
from pytest_django import Settings

from demo import library
from ota.models import FirmwarePackage
from simulator.packages import SERIES

SIZE = 20_000  # bytes


@pytest.fixture(autouse=True)
def _storage(settings: Settings, tmp_path: Path) -> None:
    backend = "django.core.files.storage.FileSystemStorage"
    options = {"location": str(tmp_path / "media"), "base_url": None}
    default = {"BACKEND": backend, "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"default": default}


@pytest.mark.django_db
def test_each_series_has_two_packages_that_fit_its_models(tmp_path: Path) -> None:
    assert library.fill(tmp_path, SIZE) == 2 * len(SERIES)
    for series in SERIES.values():
        for key in series.model_keys:
            found = FirmwarePackage.objects.available().filter(models__key=key)
            versions = {series.older.version, series.newer.version}
            assert set(found.values_list("version", flat=True)) == versions


@pytest.mark.django_db
def test_a_second_run_adds_nothing_and_leaves_no_scratch(tmp_path: Path) -> None:
    library.fill(tmp_path, SIZE)
    assert library.fill(tmp_path, SIZE) == 0
    assert [path.name for path in tmp_path.iterdir()] in ([], ["media"])
