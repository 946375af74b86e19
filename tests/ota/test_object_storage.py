"""Packages in a bucket: stored there, and fetched there by the dock itself."""

import datetime as dt
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile, File
from django.core.files.storage import default_storage
from django.db import connection
from django.utils import timezone
from storages.backends.s3 import S3Storage

from ota import checks, delivery, packages, storage
from ota.management.commands import clean_library
from ota.models import FirmwarePackage, Rollout, Upload
from ota.packages.facts import Given
from ota.states import PackageState
from ota.upgrades import issue
from simulator.packages import SERIES, build
from tests.calls import Run
from tests.make import NEW, make_listening, make_model, make_task
from tests.servers import Server

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True)]

DAY = dt.date(2024, 11, 7)


def arrive(folder: Path, size: int = 300_000) -> FirmwarePackage:
    """A package right after its upload: nobody has read its bytes yet."""
    make_model("3-2-0")
    path = build(folder, "DOCK2", NEW, DAY, size)
    with path.open("rb") as file:
        key = default_storage.save("firmware/upload.zip", File(file))
    size = path.stat().st_size
    user, _ = User.objects.get_or_create(username="ann")
    upload = Upload.objects.create(
        user=user, file_name=path.name, size=size, offset=size, fingerprint=path.name, key=key
    )
    return packages.add_upload(upload, Given(models=["3-2-0"]), user)[0]


def overwrite(package: FirmwarePackage, content: bytes) -> None:
    client, place = storage.object_of(str(package.file.name))
    client.put_object(**place, Body=content)


def bytes_of(package: FirmwarePackage) -> bytes:
    with storage.open_file(str(package.file.name)) as file:
        return file.read()


def state_of(package: FirmwarePackage) -> str:
    return FirmwarePackage.objects.get(pk=package.pk).state


def test_a_dock_fetches_ranges_straight_from_the_bucket(
    bucket: str, transactional_db: None, tmp_path: Path
) -> None:
    series = SERIES["DOCK2"]
    newest = series.newer
    path = build(tmp_path, "DOCK2", newest.version, newest.released, 300_000)
    package, _ = packages.add(path, models=series.model_keys)
    link = delivery.link(1, package)
    assert link.startswith(f"{bucket}/fleet/library/firmware/")
    answer = httpx.get(link, headers={"Range": "bytes=1000-1999"})
    assert answer.status_code == 206
    assert answer.content == path.read_bytes()[1000:2000]


def test_two_who_add_the_same_bytes_to_a_bucket_at_once_leave_its_file_there(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("3-2-0")
    path = build(tmp_path, "DOCK2", NEW, DAY, 300_000)
    both, save = threading.Barrier(2), S3Storage._save

    def save_together(self: S3Storage, name: str, content: File[bytes]) -> str:
        both.wait(20)  # for each of them nothing has this name yet
        return str(save(self, name, content))

    def add(_: int) -> bool:
        try:
            return packages.add(path, models=["3-2-0"])[1]
        finally:
            connection.close()

    monkeypatch.setattr(S3Storage, "_save", save_together)
    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(add, range(2))) == [False, True]
    package = FirmwarePackage.objects.get()
    assert [file.name for file in storage.listing()] == [package.file.name]
    assert bytes_of(package) == path.read_bytes()


def test_an_upload_in_a_bucket_is_read_before_it_is_offered(bucket: str, tmp_path: Path) -> None:
    package = arrive(tmp_path)
    assert (package.state, package.md5, package.sha256) == (PackageState.CHECKING, "", None)
    assert checks.check(timezone.now())
    package.refresh_from_db()
    assert package.state == PackageState.AVAILABLE
    assert len(package.md5) == 32
    assert package.stamp == storage.stat(str(package.file.name)).stamp


def test_a_damaged_upload_in_a_bucket_is_not_offered(bucket: str, tmp_path: Path) -> None:
    package = arrive(tmp_path)
    whole = bytearray(bytes_of(package))
    whole[100_000] ^= 1
    overwrite(package, bytes(whole))
    assert checks.check(timezone.now())
    package.refresh_from_db()
    assert package.state == PackageState.DRAFT
    assert "cannot be read as it was packed" in package.problem


@pytest.mark.parametrize(("is_same", "state"), [(True, "available"), (False, "draft")])
def test_a_file_that_was_overwritten_in_a_bucket_is_not_sent_before_a_check(
    bucket: str, tmp_path: Path, is_same: bool, state: str
) -> None:
    package = arrive(tmp_path)
    checks.check(timezone.now())
    FirmwarePackage.objects.update(**{} if not is_same else {"stamp": "of another day"})
    if not is_same:
        overwrite(package, bytes(package.size))
    make_listening()
    make_task()
    issue.look_again(timezone.now())
    issue.issue(issue.due(timezone.now()), timezone.now())
    assert state_of(package) == PackageState.CHECKING
    checks.check(timezone.now())
    assert state_of(package) == state
    assert (Rollout.objects.get().status == Rollout.Status.RUNNING) is is_same


def test_an_object_that_is_gone_is_damage(bucket: str, tmp_path: Path) -> None:
    package = arrive(tmp_path)
    storage.remove(str(package.file.name))
    checks.check(timezone.now())
    assert state_of(package) == PackageState.DRAFT


def test_a_bucket_that_does_not_answer_damages_nothing(
    bucket: str, tmp_path: Path, s3_server: Server
) -> None:
    package = arrive(tmp_path)
    s3_server.kill9()
    assert checks.check(timezone.now())
    assert state_of(package) == PackageState.CHECKING
    assert "cannot be read now" in package.events.latest("pk").text


def test_a_bucket_that_is_not_there_damages_nothing(bucket: str, tmp_path: Path) -> None:
    package = arrive(tmp_path)
    client, place = storage.object_of(str(package.file.name))
    client.delete_object(**place)
    client.delete_bucket(Bucket=place["Bucket"])
    assert checks.check(timezone.now())
    assert state_of(package) == PackageState.CHECKING


def test_a_big_object_is_checked_in_little_memory(bucket: str, tmp_path: Path) -> None:
    package = arrive(tmp_path, 80_000_000)
    tracemalloc.start()
    try:
        checks.check(timezone.now())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert state_of(package) == PackageState.AVAILABLE
    assert peak < 24_000_000


def test_a_bucket_is_cleaned_page_by_page(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    run, package = Run(capsys), arrive(tmp_path)
    client, place = storage.object_of("firmware/left.zip")
    monkeypatch.setattr(storage, "PAGE", 10)
    for number in range(25):
        client.put_object(**place | {"Key": f"{place['Key']}-{number:04}"}, Body=b"left")
    default_storage.save("other/left.zip", ContentFile(b"not ours"))
    assert run.answer("clean_library")["removed"] == []
    monkeypatch.setattr(clean_library, "OLD_ENOUGH", dt.timedelta(0))
    assert len(run.answer("clean_library")["removed"]) == 25
    assert default_storage.exists("other/left.zip")
    assert [each.name for each in storage.listing()] == [package.file.name]
    storage.remove(str(package.file.name))
    assert run.answer("clean_library", code=1)["missing"][0]["id"] == package.pk
