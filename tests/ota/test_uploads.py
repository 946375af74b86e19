"""Packages on their way in: the protocol, piece by piece."""

import datetime as dt
import fcntl
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.signals import post_delete
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from config import env
from ota import packages, storage, tasks, uploads
from ota.models import FirmwarePackage, Upload
from ota.packages import PackageRefused
from ota.packages.facts import Given
from tests.people import log_in, staff, text
from tests.servers import program
from tests.uploading import (
    ADD,
    CREATE,
    TUS,
    announce,
    bring,
    created,
    metadata,
    offset,
    send,
    sha256,
)

pytestmark = pytest.mark.django_db

MB = 1 << 20


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """No hashes are known from another test."""
    uploads._digests.clear()
    yield
    uploads._digests.clear()


# Pieces


def test_an_upload_arrives_in_pieces_with_its_hashes(administrator: Client, dock2: bytes) -> None:
    upload = bring(administrator, dock2)
    assert storage.path(upload.key).read_bytes() == dock2
    assert upload.sha256 == sha256(dock2)
    assert upload.md5 == hashlib.md5(dock2, usedforsecurity=False).hexdigest()


def test_a_piece_of_the_size_that_browsers_send_is_taken(administrator: Client) -> None:
    url = created(administrator, uploads.PIECE)
    assert send(administrator, url, 0, bytes(uploads.PIECE)).status_code == 204


def test_an_upload_tells_how_far_it_is_and_how_long_it_waits(
    administrator: Client, settings: Settings
) -> None:
    settings.UPLOAD_DAYS = 2
    with time_machine.travel("2026-03-01T12:00:00Z", tick=False):
        url = created(administrator, 100)
        send(administrator, url, 0, bytes(30))
        answer = administrator.head(url, headers=TUS)
    shown = {name: answer.headers[name] for name in ("Upload-Length", "Upload-Offset")}
    assert shown == {"Upload-Length": "100", "Upload-Offset": "30"}
    assert answer.headers["Upload-Expires"] == "Tue, 03 Mar 2026 12:00:00 GMT"
    assert "no-store" in answer.headers["Cache-Control"]


def test_a_server_tells_what_it_speaks(administrator: Client, settings: Settings) -> None:
    answer = administrator.options(CREATE)
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Extension"] == "creation,termination,expiration"
    assert answer.headers["Tus-Max-Size"] == str(4 << 30)


def test_a_process_that_did_not_see_the_start_leaves_the_hashes_to_the_check(
    administrator: Client, dock2: bytes
) -> None:
    url = created(administrator, len(dock2))
    send(administrator, url, 0, dock2[:1000])
    uploads._digests.clear()  # as after a restart
    send(administrator, url, 1000, dock2[1000:])
    upload = Upload.objects.get()
    assert (upload.is_complete, upload.md5, upload.sha256) == (True, "", "")


def test_a_process_remembers_the_hashes_of_a_bounded_number_of_uploads(
    administrator: Client,
) -> None:
    for number in range(uploads._MOST_DIGESTS + 3):
        send(administrator, created(administrator, 10, modified=str(number)), 0, b"12345")
    assert len(uploads._digests) == uploads._MOST_DIGESTS


def test_what_the_file_lost_is_asked_for_again(administrator: Client) -> None:
    url = created(administrator, 100)
    send(administrator, url, 0, bytes(60))
    os.truncate(storage.path(Upload.objects.get().key), 20)
    assert offset(administrator, url) == 20
    assert send(administrator, url, 20, bytes(80)).status_code == 204


def test_what_the_row_does_not_know_is_cut_off(administrator: Client, dock2: bytes) -> None:
    url = created(administrator, len(dock2))
    path = storage.path(Upload.objects.get().key)
    path.write_bytes(b"a piece whose process was killed")
    assert offset(administrator, url) == 0
    send(administrator, url, 0, dock2)
    assert path.read_bytes() == dock2


def test_a_file_that_was_removed_is_gone(administrator: Client) -> None:
    url = created(administrator, 100)
    storage.path(Upload.objects.get().key).unlink()
    assert administrator.head(url, headers=TUS).status_code == 404
    answer = send(administrator, url, 0, bytes(10))
    assert (answer.status_code, "Choose the file again" in text(answer)) == (404, True)


# Bad requests


def test_a_piece_at_a_wrong_offset_is_refused(administrator: Client) -> None:
    url = created(administrator, 100)
    send(administrator, url, 0, bytes(30))
    for wrong in (0, 29, 31, 100):
        assert send(administrator, url, wrong, bytes(10)).status_code == 409
    assert offset(administrator, url) == 30


@pytest.mark.parametrize("version", ["", "0.2.2", "1.0.1"])
def test_another_version_of_the_protocol_is_refused(administrator: Client, version: str) -> None:
    headers = {"Tus-Resumable": version} if version else {}
    url = created(administrator, 100)
    for answer in (
        administrator.post(CREATE, headers=headers),
        administrator.head(url, headers=headers),
    ):
        assert (answer.status_code, answer.headers["Tus-Version"]) == (412, "1.0.0")


@pytest.mark.parametrize("length", ["", "-1", "1.5", "ten", "٣", "1" * 30, "0"])
def test_a_length_that_is_no_number_of_bytes_is_refused(administrator: Client, length: str) -> None:
    headers = TUS | {"Upload-Length": length, "Upload-Metadata": metadata(filename="a.zip")}
    assert administrator.post(CREATE, headers=headers).status_code == 400
    assert not Upload.objects.exists()


@pytest.mark.parametrize("length", ["", "-1", "x"])
def test_an_offset_that_is_no_number_is_refused(administrator: Client, length: str) -> None:
    url = created(administrator, 100)
    answer = send(administrator, url, 0, b"1", **{"Upload-Offset": length})
    assert (answer.status_code, "Upload-Offset" in text(answer)) == (400, True)


def test_metadata_that_is_not_base64_is_refused(administrator: Client) -> None:
    headers = TUS | {"Upload-Length": "5", "Upload-Metadata": "filename *"}
    answer = administrator.post(CREATE, headers=headers)
    assert (answer.status_code, "Upload-Metadata" in text(answer)) == (400, True)


def test_a_body_of_another_type_is_refused(administrator: Client) -> None:
    url = created(administrator, 100)
    answer = administrator.patch(url, b"1", content_type="text/plain", headers=TUS)
    assert answer.status_code == 415


def test_more_bytes_than_announced_leave_no_trace(administrator: Client, dock2: bytes) -> None:
    url = created(administrator, len(dock2))
    send(administrator, url, 0, dock2[:1000])
    assert send(administrator, url, 1000, dock2[1000:] + b"more").status_code == 400
    assert offset(administrator, url) == 1000
    send(administrator, url, 1000, dock2[1000:])
    assert Upload.objects.get().sha256 == sha256(dock2)


def test_a_file_over_the_limit_is_refused_before_a_byte_is_sent(
    administrator: Client, settings: Settings
) -> None:
    settings.UPLOAD_LIMIT_GB = 0.001
    answer = announce(administrator, 2 * MB)
    assert answer.status_code == 413
    assert "2.0 MiB; at most 1.0 MiB are taken (UPLOAD_LIMIT_GB)" in text(answer)
    assert not Upload.objects.exists()


@pytest.mark.parametrize(
    "name",
    [
        "a" * 296 + ".zip",
        "a\r\nSet-Cookie: x=1.zip",
        "a\u202egpj.zip",
        "../../etc/a.zip",
        "a\\b.zip",
        "package.tar",
        "",
        "\x00.zip",
    ],
)
def test_a_name_that_is_not_safe_is_refused_before_a_byte_is_sent(
    administrator: Client, name: str
) -> None:
    answer = announce(administrator, 100, name)
    assert (answer.status_code, "file name" in text(answer)) == (400, True)
    assert not Upload.objects.exists()


@pytest.mark.parametrize("name", ['DJI "Dock 2".zip', "固件 (1).zip", "a'b&c<d>.zip"])
def test_a_name_with_quotes_or_other_letters_is_kept_and_shown(
    administrator: Client, name: str
) -> None:
    created(administrator, 100, name=name)
    assert Upload.objects.get().file_name == name
    page = administrator.get(ADD).content.decode()
    assert "<d>" not in page
    assert re.search(r"0 % of 100\s*bytes is here", page)


# Who


def test_an_upload_is_its_owners_alone(administrator: Client) -> None:
    url = created(administrator, 100)
    other = staff("add_firmwarepackage")
    for answer in (
        other.head(url, headers=TUS),
        send(other, url, 0, b"1"),
        other.delete(url, headers=TUS),
        other.post(f"{url}sign/", {}, content_type="application/json"),
        other.post(f"{url}finish/"),
    ):
        assert answer.status_code == 404
    assert offset(administrator, url) == 0


def test_an_upload_that_never_was_is_not_found(administrator: Client) -> None:
    url = f"{CREATE}00000000-0000-4000-8000-000000000000/"
    assert administrator.head(url, headers=TUS).status_code == 404


@pytest.mark.parametrize("group", ["Viewers", "Operators"])
def test_only_who_may_add_packages_uploads_them(client: Client, group: str) -> None:
    log_in(client, group)
    assert announce(client, 100).status_code == 403


def test_who_is_not_logged_in_is_told_so_in_words_instead_of_a_form(client: Client) -> None:
    answer = announce(client, 100)
    assert (answer.status_code, "Log in" in text(answer)) == (401, True)


def test_another_sites_page_cannot_upload(transactional_db: None) -> None:
    careful = Client(enforce_csrf_checks=True)
    log_in(careful, "Administrators")
    assert announce(careful, 100).status_code == 403
    careful.get(ADD)
    token = careful.cookies["csrftoken"].value
    assert announce(careful, 100, **{"X-CSRFToken": token}).status_code == 201


# Going on, and giving up


def test_the_same_file_chosen_again_goes_on(administrator: Client) -> None:
    url = created(administrator, 100)
    send(administrator, url, 0, bytes(30))
    answer = announce(administrator, 100)
    assert (answer.status_code, answer.headers["Location"]) == (200, url)
    assert answer.headers["Upload-Offset"] == "30"


@pytest.mark.parametrize("other", [{"size": 101}, {"name": "M3D.zip"}, {"modified": "2"}])
def test_another_file_is_another_upload(administrator: Client, other: dict[str, Any]) -> None:
    created(administrator, 100)
    assert announce(administrator, **{"size": 100} | other).status_code == 201


def test_the_same_file_of_two_people_are_two_uploads(administrator: Client) -> None:
    created(administrator, 100)
    assert announce(staff("add_firmwarepackage"), 100).status_code == 201


def test_a_file_that_was_removed_starts_anew_when_it_is_chosen_again(administrator: Client) -> None:
    created(administrator, 100)
    storage.path(Upload.objects.get().key).unlink()
    assert announce(administrator, 100).status_code == 201
    assert Upload.objects.count() == 1


def test_giving_up_removes_row_and_file(administrator: Client) -> None:
    url = created(administrator, 100)
    path = storage.path(Upload.objects.get().key)
    assert administrator.delete(url, headers=TUS).status_code == 204
    assert not path.exists()
    assert administrator.head(url, headers=TUS).status_code == 404


def test_an_upload_that_nobody_goes_on_with_expires(
    administrator: Client, settings: Settings
) -> None:
    settings.UPLOAD_DAYS = 7
    created(administrator, 100, modified="old")
    key, now = Upload.objects.get().key, timezone.now()
    Upload.objects.update(changed_at=now - dt.timedelta(days=7, seconds=1))
    created(administrator, 100, modified="young")
    assert [upload.key for upload in uploads.expire(now)] == [key]
    assert not storage.path(key).exists()
    assert Upload.objects.count() == 1


def test_an_upload_whose_owner_comes_back_while_others_expire_is_kept(
    administrator: Client,
) -> None:
    for name in ("first", "second"):
        created(administrator, 100, modified=name)
    now = timezone.now()
    Upload.objects.update(changed_at=now - dt.timedelta(days=8))

    def come_back(**_: object) -> None:
        Upload.objects.update(changed_at=now)

    post_delete.connect(come_back, sender=Upload)
    try:
        assert len(uploads.expire(now)) == 1
    finally:
        post_delete.disconnect(come_back, sender=Upload)
    assert storage.path(Upload.objects.get().key).exists()


def test_the_clock_forgets_what_has_expired(
    administrator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    created(administrator, 100)
    Upload.objects.update(changed_at=timezone.now() - dt.timedelta(days=8))
    with caplog.at_level("INFO"):
        tasks.expire_uploads()
    assert "upload of DOCK2.zip" in caplog.text
    assert not Upload.objects.exists()


def test_choosing_the_file_again_keeps_it_from_expiring(administrator: Client) -> None:
    created(administrator, 100)
    now = timezone.now()
    Upload.objects.update(changed_at=now - dt.timedelta(days=6, hours=23))
    announce(administrator, 100)
    assert uploads.expire(now + dt.timedelta(days=1)) == []


def test_what_has_become_a_package_is_not_dropped(administrator: Client, dock2: bytes) -> None:
    upload = bring(administrator, dock2)
    package, _ = packages.add_upload(upload, Given(models=["3-2-0"]), upload.user)
    uploads.drop(upload)
    assert storage.path(str(package.file.name)).read_bytes() == dock2


def test_what_was_discarded_meanwhile_becomes_no_package(
    administrator: Client, dock2: bytes
) -> None:
    upload = bring(administrator, dock2)
    Upload.objects.all().delete()
    with pytest.raises(PackageRefused, match="added or discarded meanwhile"):
        packages.add_upload(upload, Given(models=["3-2-0"]), upload.user)
    assert not FirmwarePackage.objects.exists()


# Two at once


def test_a_second_piece_at_the_same_time_is_told_to_wait(administrator: Client) -> None:
    url = created(administrator, 100)
    with storage.path(Upload.objects.get().key).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert send(administrator, url, 0, bytes(10)).status_code == 423
    assert send(administrator, url, 0, bytes(10)).status_code == 204


def at_once(*works: Any) -> list[Any]:
    """Runs them in threads that start together; each with a connection of its own."""
    start, results = threading.Barrier(len(works)), []

    def run(work: Any) -> None:
        start.wait()
        try:
            results.append(work())
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_two_tabs_that_choose_a_file_at_once_share_an_upload(administrator: Client) -> None:
    user = User.objects.get(username="administrators")
    file = uploads.Announced("DOCK2.zip", 100, "1")
    results = at_once(*[lambda: uploads.create(user, file, timezone.now())] * 4)
    assert len({upload.pk for upload, _ in results}) == 1
    assert sorted(is_new for _, is_new in results) == [False, False, False, True]


@pytest.mark.django_db(transaction=True)
def test_two_people_who_bring_the_same_file_at_once_end_with_one_package(
    administrator: Client, dock2: bytes
) -> None:
    both = [bring(administrator, dock2), bring(staff("add_firmwarepackage"), dock2)]
    given = Given(models=["3-2-0"])
    results = at_once(
        *[lambda upload=upload: packages.add_upload(upload, given, upload.user) for upload in both]
    )
    package = FirmwarePackage.objects.get()
    assert {found.pk for found, _ in results} == {package.pk}
    assert sorted(is_new for _, is_new in results) == [False, True]
    folder = storage.path(storage.FOLDER)
    assert [path.name for path in folder.iterdir()] == [Path(str(package.file.name)).name]
    assert not Upload.objects.exists()


# Room


@pytest.fixture
def small_disk(tmp_path: Path, settings: Settings) -> Iterator[Path]:
    """The packages are kept on a disk of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = program("mount", "mount")
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    entry = env.storage("", f"file://{folder}", Path())
    settings.STORAGES = settings.STORAGES | {"default": entry}
    yield folder
    subprocess.run([program("umount", "mount"), str(folder)], check=True)


def test_a_file_for_which_there_is_no_room_is_refused_before_a_byte_is_sent(
    administrator: Client, small_disk: Path
) -> None:
    answer = announce(administrator, 4 * MB)
    assert answer.status_code == 507
    assert "it needs 4.0 MiB, and 4.0 MiB are free" in text(answer)
    assert not Upload.objects.exists()


def test_a_disk_that_fills_up_leaves_the_upload_where_it_was(
    administrator: Client, small_disk: Path
) -> None:
    content = os.urandom(3 * MB)
    url = created(administrator, len(content))
    send(administrator, url, 0, content[:MB])
    (small_disk / "other").write_bytes(bytes(2 * MB))
    answer = send(administrator, url, MB, content[MB:])
    assert (answer.status_code, "is full" in text(answer)) == (507, True)
    assert storage.path(Upload.objects.get().key).stat().st_size == offset(administrator, url) == MB
    (small_disk / "other").unlink()
    assert send(administrator, url, MB, content[MB:]).status_code == 204
    assert Upload.objects.get().sha256 == sha256(content)
