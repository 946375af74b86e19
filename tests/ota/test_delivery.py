"""What the firmware server gives to whom: links, ranges and headers."""

import os
import tracemalloc
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from config.firmware import application
from ota import delivery, packages
from ota.models import FirmwarePackage, UpgradeTask
from ota.states import TaskStatus
from tests.make import NEW, make_package, make_task
from tests.processes import Processes, Running

# The server gives its connection back after each request, and with it a test's transaction.
pytestmark = pytest.mark.django_db(transaction=True)

CONTENT = os.urandom(200_000)


@pytest.fixture(autouse=True)
def storage(settings: Settings, tmp_path: Path) -> None:
    backend = "django.core.files.storage.FileSystemStorage"
    entry = {"BACKEND": backend, "OPTIONS": {"location": str(tmp_path / "media")}}
    settings.STORAGES = settings.STORAGES | {"default": entry}


@pytest.fixture
def package() -> FirmwarePackage:
    package = make_package(size=len(CONTENT))
    default_storage.delete(str(package.file.name))
    package.file.save(str(package.file.name), ContentFile(CONTENT))
    return package


@pytest.fixture
def task(package: FirmwarePackage) -> UpgradeTask:
    return make_task(status=TaskStatus.SENT, version=package.version)


@pytest.fixture
def path(task: UpgradeTask, package: FirmwarePackage) -> str:
    return path_of(task, package)


def path_of(task: UpgradeTask, package: FirmwarePackage) -> str:
    return urlsplit(delivery.link(task.pk, package)).path


def ask(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Sync, so that the server looks into the database in the test's thread and leaves no other."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://firmware") as client:
            return await client.request(method, path, headers=names)

    return async_to_sync(send)()


def test_a_link_leads_to_the_package(path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == "200000"
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_link_is_made_before_anything_was_stored(
    settings: Settings, task: UpgradeTask, package: FirmwarePackage
) -> None:
    settings.STORAGES = dict(settings.STORAGES)  # the storage is opened anew, as in a new process
    assert delivery.link(task.pk, package).startswith(settings.FIRMWARE_URL)


def test_head_tells_the_same_without_content(path: str) -> None:
    answer, whole = ask(path, "HEAD"), ask(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert dict(answer.headers) == dict(whole.headers)


def test_the_entity_tag_is_strong_and_names_the_content(
    path: str, package: FirmwarePackage
) -> None:
    answer = ask(path)
    assert answer.headers["etag"] == f'"{package.sha256}"'
    assert answer.headers["last-modified"].endswith("GMT")


def test_nothing_is_remembered_about_who_asks(path: str) -> None:
    assert "set-cookie" not in ask(path).headers


@pytest.mark.parametrize(
    ("wanted", "part", "told"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/200000"),
        ("bytes=100-", slice(100, None), "bytes 100-199999/200000"),
        ("bytes=-1", slice(-1, None), "bytes 199999-199999/200000"),
        ("bytes=-999999", slice(0, None), "bytes 0-199999/200000"),
        ("bytes=199990-999999", slice(199990, None), "bytes 199990-199999/200000"),
        ("bytes=0-,5-", slice(0, None), "bytes 0-199999/200000"),
        ("BYTES=5-5", slice(5, 6), "bytes 5-5/200000"),
    ],
)
def test_a_range_gives_a_part(path: str, wanted: str, part: slice, told: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 206
    assert answer.content == CONTENT[part]
    assert answer.headers["content-range"] == told
    assert answer.headers["content-length"] == str(len(answer.content))


def test_several_ranges_give_several_parts(path: str) -> None:
    answer = ask(path, range="bytes=0-1, 100-101")
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert b"bytes 0-1/200000\r\n\r\n" + CONTENT[:2] in answer.content
    assert b"bytes 100-101/200000\r\n\r\n" + CONTENT[100:102] in answer.content


@pytest.mark.parametrize("wanted", ["bytes=200000-", "bytes=999999-9999999", "bytes=-0"])
def test_a_range_behind_the_end_is_not_satisfiable(path: str, wanted: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */200000"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-1",
        "bytes=a-b",
        "bytes=",
        "bytes=-",
        "bytes",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=" + "9" * 5000 + "-",
        "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 20_000, 2)),
    ],
)
def test_a_range_that_makes_no_sense_gives_the_whole(path: str, wanted: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 200
    assert len(answer.content) == len(CONTENT)


def test_a_range_goes_on_only_while_the_content_is_the_same(
    path: str, package: FirmwarePackage
) -> None:
    same, other = f'"{package.sha256}"', '"something else"'
    assert ask(path, range="bytes=5-9", if_range=same).status_code == 206
    assert ask(path, range="bytes=5-9", if_range=other).status_code == 200


def test_a_bad_token_is_refused(path: str) -> None:
    answer = ask(path.replace("/firmware/", "/firmware/x"))
    assert answer.status_code == 403
    assert ask("/firmware/x/a.zip").status_code == 403


def test_a_token_of_another_purpose_is_refused(
    monkeypatch: pytest.MonkeyPatch, task: UpgradeTask, package: FirmwarePackage, settings: Settings
) -> None:
    settings.SECRET_KEY = "of another installation"
    monkeypatch.setattr(delivery._signer, "key", settings.SECRET_KEY)
    foreign = path_of(task, package)
    monkeypatch.undo()
    assert ask(foreign).status_code == 403


def test_a_package_that_the_task_does_not_install_is_refused(task: UpgradeTask) -> None:
    assert ask(path_of(task, make_package("14.03.0915"))).status_code == 403


def test_a_link_expires(path: str, settings: Settings) -> None:
    later = timezone.now() + timedelta(hours=settings.FIRMWARE_LINK_HOURS, seconds=2)
    with time_machine.travel(later):
        assert ask(path).status_code == 410


def test_a_canceled_task_fetches_nothing(path: str, task: UpgradeTask) -> None:
    UpgradeTask.objects.move([task.pk], TaskStatus.CANCELED, timezone.now())
    assert ask(path).status_code == 403


def test_a_withdrawn_package_is_fetched_by_nobody(path: str, package: FirmwarePackage) -> None:
    packages.withdraw(package, timezone.now())
    assert ask(path).status_code == 403


def test_a_file_that_is_gone_is_not_found(path: str, package: FirmwarePackage) -> None:
    default_storage.delete(str(package.file.name))
    assert ask(path).status_code == 404


def test_a_file_that_was_cut_off_is_not_handed_out(path: str, package: FirmwarePackage) -> None:
    Path(package.file.path).write_bytes(CONTENT[:-1])
    assert ask(path).status_code == 404


def test_a_dock_is_asked_to_come_back_while_the_database_is_away(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
        answer = ask(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert ask(path).status_code == 200


def test_a_strange_file_name_stays_out_of_the_headers(
    task: UpgradeTask, package: FirmwarePackage
) -> None:
    FirmwarePackage.objects.update(file_name='a"; x=y\r\nX-Evil: 1 ü.zip')
    answer = ask(path_of(task, package))
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["content-disposition"].isascii()


@pytest.mark.parametrize("wrong", ["/firmware/", "/firmware/x", "/", "/admin/", "/healthz/"])
def test_nothing_else_is_here_and_nobody_is_redirected(wrong: str) -> None:
    assert ask(wrong).status_code == 404


def test_other_methods_are_refused(path: str) -> None:
    assert ask(path, "POST").status_code == 405


def test_a_slash_too_many_is_not_redirected(path: str) -> None:
    assert ask(f"{path}/").status_code == 404


def test_health_is_told() -> None:
    assert ask("/healthz").text == "ok\n"


def test_ten_thousand_ranges_are_answered_with_little_memory(path: str) -> None:
    many = "bytes=" + ",".join(f"{start}-{start}" for start in range(10_000))
    tracemalloc.start()
    try:
        answer = ask(path, range=many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200
    assert peak < 20 * len(CONTENT)


@pytest.fixture
def running(processes: Processes) -> Running:
    """The server as people start it."""
    return processes.firmware()


def address_of(content: bytes) -> str:
    package = make_package(size=len(content))
    default_storage.delete(str(package.file.name))
    package.file.save(str(package.file.name), ContentFile(content))
    return delivery.link(make_task(status=TaskStatus.SENT, version=NEW).pk, package)


@pytest.mark.services
def test_the_server_as_it_is_started_hands_out_a_part(running: Running) -> None:
    answer = httpx.get(address_of(CONTENT), headers={"Range": "bytes=2-3"})
    assert (answer.status_code, answer.content) == (206, CONTENT[2:4])


@pytest.mark.services
def test_links_are_not_logged(running: Running) -> None:
    address = address_of(CONTENT)
    httpx.get(address)
    running.wait_for_line("GET /firmware/***/")
    assert address.split("/")[4] not in running.output


@pytest.mark.services
def test_a_dock_that_is_slow_does_not_keep_the_server_from_ending(running: Running) -> None:
    with httpx.stream("GET", address_of(bytes(50_000_000))) as answer:
        next(answer.iter_raw(1000))
        running.terminate(8)
    assert "Traceback" not in running.output
