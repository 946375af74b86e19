"""`clean_library`: what nobody needs goes, what somebody needs is reported if it is gone."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import Settings

from ota import packages, storage
from ota.models import FirmwarePackage, Upload
from simulator.packages import build
from tests.calls import Run, refusal
from tests.make import NEW, make_model, make_package

pytestmark = pytest.mark.django_db


def write(name: str, hours: float = 2, size: int = 10) -> Path:
    """A file in the storage that came there so many hours ago."""
    path = storage.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return age(path, hours)


def age(path: Path, hours: float = 2) -> Path:
    at = (timezone.now() - dt.timedelta(hours=hours)).timestamp()
    os.utime(path, (at, at))
    return path


def file_of(package: FirmwarePackage) -> Path:
    return storage.path(str(package.file.name))


def make_upload(**fields: Any) -> Upload:
    user = User.objects.create_user("ann")
    values: dict[str, Any] = {
        "user": user,
        "file_name": "a.zip",
        "size": 10,
        "key": "firmware/up.zip",
    }
    return Upload.objects.create(**values | fields)


def test_a_file_that_nobody_owns_goes(run: Run) -> None:
    left, package = write("firmware/left.zip"), make_package()
    age(file_of(package))
    assert run.answer("clean_library") == {
        "removed": [{"name": "firmware/left.zip", "size": 10}],
        "missing": [],
        "dry_run": False,
    }
    assert not left.exists()
    assert file_of(package).exists()


def test_a_database_that_knows_no_package_removes_none(run: Run) -> None:
    left = write("firmware/left.zip")
    code, told = refusal("clean_library")
    assert (code, "DATABASE_URL" in told) == (2, True)
    assert left.exists()


def test_a_database_that_knows_no_package_keeps_its_expired_uploads_too(
    run: Run, settings: Settings
) -> None:
    write("firmware/left.zip")
    path = write("firmware/up.zip")
    upload = make_upload(offset=10)
    before = timezone.now() - dt.timedelta(days=settings.UPLOAD_DAYS + 1)
    Upload.objects.update(changed_at=before)
    assert refusal("clean_library")[0] == 2
    assert path.exists()
    assert Upload.objects.get() == upload


def test_a_dry_run_removes_nothing(run: Run) -> None:
    left = write("firmware/left.zip")
    told = run.answer("clean_library", "--dry-run")
    assert (told["removed"][0]["name"], told["dry_run"]) == ("firmware/left.zip", True)
    assert left.exists()


def test_a_file_that_may_be_on_its_way_in_stays(run: Run) -> None:
    fresh = write("firmware/fresh.zip", hours=0.9)
    assert run.answer("clean_library")["removed"] == []
    assert fresh.exists()


def test_nothing_outside_of_its_folder_is_touched(run: Run) -> None:
    make_package()
    other = write("other/left.zip")
    write("firmware/left.zip")
    link = storage.path("firmware/link.zip")
    link.symlink_to(other)
    assert [each["name"] for each in run.answer("clean_library")["removed"]] == [
        "firmware/left.zip"
    ]
    assert other.exists()
    assert link.is_symlink()


def test_an_upload_that_goes_on_stays_and_one_that_has_expired_goes(
    run: Run, settings: Settings
) -> None:
    path = write("firmware/up.zip")
    upload = make_upload(offset=10)
    assert run.answer("clean_library")["removed"] == []
    before = timezone.now() - dt.timedelta(days=settings.UPLOAD_DAYS + 1)
    Upload.objects.filter(pk=upload.pk).update(changed_at=before)
    expected = [{"name": "firmware/up.zip", "size": 10}]
    assert run.answer("clean_library", "--dry-run")["removed"] == expected
    assert path.exists()
    assert run.answer("clean_library")["removed"] == expected
    assert not path.exists()
    assert not Upload.objects.exists()


def test_a_package_whose_file_is_gone_is_reported(run: Run) -> None:
    package = make_package()
    file_of(package).unlink()
    told = run.answer("clean_library", code=1)
    assert told["missing"] == [{"id": package.pk, "file_name": package.file_name}]
    assert FirmwarePackage.objects.get() == package


def test_adding_its_zip_again_brings_back_what_is_gone(run: Run, tmp_path: Path) -> None:
    make_model("3-2-0")
    zip_path = build(tmp_path, "DOCK2", NEW, dt.date(2024, 11, 7), 50_000)
    words = ("import_firmware", str(zip_path), "--model", "3-2-0")
    assert run(*words) == 0
    file_of(FirmwarePackage.objects.get()).unlink()
    assert run("clean_library") == 1
    assert run.answer(*words)[0]["state"] == "checking"
    assert run.answer("clean_library")["missing"] == []


def test_a_withdrawn_package_misses_no_file(run: Run) -> None:
    package = make_package()
    packages.withdraw(package, timezone.now())
    file_of(package).unlink()
    assert run.answer("clean_library")["missing"] == []


def test_a_purged_package_misses_no_file_and_owns_none(run: Run) -> None:
    package = make_package()
    packages.withdraw(package, timezone.now())
    packages.purge(package, timezone.now())
    write(str(package.file.name))  # as if the process had ended before the file was removed
    assert len(run.answer("clean_library")["removed"]) == 1
    assert run.answer("clean_library") == {"removed": [], "missing": [], "dry_run": False}


def test_a_storage_that_is_away_misses_nothing(run: Run) -> None:
    make_package()
    storage.path("firmware").rename(storage.path("unmounted"))
    code, told = refusal("clean_library")
    assert code == 1
    assert "does not answer" in told


def test_a_library_that_was_never_used_is_clean(run: Run) -> None:
    assert run.answer("clean_library") == {"removed": [], "missing": [], "dry_run": False}


def test_people_get_tables(run: Run) -> None:
    make_package()
    write("firmware/left.zip", size=3000)
    assert run("clean_library") == 0
    assert "firmware/left.zip  2.9" in run.out.replace("\xa0", " ")
    assert run("clean_library") == 0
    assert run.out.strip() == "Nothing to do."
