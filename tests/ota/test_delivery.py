"""What the firmware server gives to whom: links, ranges and headers."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
import time_machine
from django.core.files.storage import default_storage
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from ota import delivery, packages
from ota.models import FirmwarePackage, UpgradeTask
from ota.states import PackageState, TaskStatus
from tests.fetching import CONTENT, address_of, ask, path_of, store
from tests.make import make_package, make_task
from tests.processes import ROOT, Processes, Running

# The server gives its connection back after each request, and with it a test's transaction.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def package() -> FirmwarePackage:
    return store()


@pytest.fixture
def task(package: FirmwarePackage) -> UpgradeTask:
    return make_task(status=TaskStatus.SENT, version=package.version)


@pytest.fixture
def path(task: UpgradeTask, package: FirmwarePackage) -> str:
    return path_of(task, package)


def test_a_link_leads_to_the_package(path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == "200000"
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["accept-ranges"] == "bytes"


def test_the_firmware_process_does_without_the_console() -> None:
    code = "import sys, config.firmware; print(*sorted(sys.modules))"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings", "SECRET_KEY": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment,
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "ota.models" in loaded
    assert not loaded & {"unfold", "ota.admin", "twisted", "daphne.server"}


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


@pytest.mark.parametrize("status", ["ok", "failed", "rejected", "canceled"])
def test_a_task_that_has_ended_fetches_nothing(path: str, task: UpgradeTask, status: str) -> None:
    UpgradeTask.objects.move([task.pk], TaskStatus(status), timezone.now())
    assert ask(path).status_code == 403


@pytest.mark.parametrize("status", ["pending", "in_progress", "paused", "verifying", "timeout"])
def test_a_dock_that_may_still_download_gets_the_rest(
    path: str, task: UpgradeTask, status: str
) -> None:
    UpgradeTask.objects.filter(pk=task.pk).update(status=status)
    assert ask(path).status_code == 200


def test_the_life_of_a_link_counts_from_its_issue(
    task: UpgradeTask, package: FirmwarePackage, settings: Settings
) -> None:
    created = timezone.now() - timedelta(hours=settings.FIRMWARE_LINK_HOURS, minutes=1)
    UpgradeTask.objects.update(sent_at=created, status_at=created)
    assert ask(path_of(task, package)).status_code == 200


def test_a_package_that_is_being_checked_comes_later(path: str) -> None:
    FirmwarePackage.objects.update(state=PackageState.CHECKING)
    answer = ask(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_a_damaged_package_is_fetched_by_nobody(path: str) -> None:
    FirmwarePackage.objects.update(state=PackageState.DRAFT, problem="its bytes are not the same.")
    assert ask(path).status_code == 403


def test_a_withdrawn_package_is_fetched_by_nobody(path: str, package: FirmwarePackage) -> None:
    packages.withdraw(package, timezone.now())
    assert ask(path).status_code == 403


def state(package: FirmwarePackage) -> str:
    package.refresh_from_db()
    return package.state


def test_a_file_that_is_gone_is_not_found_and_is_looked_into(
    path: str, package: FirmwarePackage
) -> None:
    default_storage.delete(str(package.file.name))
    assert ask(path).status_code == 404
    assert state(package) == PackageState.CHECKING


def test_a_dock_is_asked_to_come_back_while_the_folder_of_packages_is_away(
    path: str, package: FirmwarePackage
) -> None:
    folder = Path(package.file.path).parent
    away = folder.rename(folder.with_name("away"))
    answer = ask(path)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "10")
    assert state(package) == PackageState.AVAILABLE
    away.rename(folder)
    assert ask(path).status_code == 200


def test_a_file_that_was_cut_off_is_not_handed_out(path: str, package: FirmwarePackage) -> None:
    Path(package.file.path).write_bytes(CONTENT[:-1])
    assert ask(path).status_code == 404
    assert state(package) == PackageState.CHECKING


def test_a_file_that_was_touched_is_checked_before_it_goes_out(
    path: str, package: FirmwarePackage
) -> None:
    FirmwarePackage.objects.update(stamp="of another time")
    assert ask(path).status_code == 503
    assert state(package) == PackageState.CHECKING


def test_a_dock_is_asked_to_come_back_while_the_database_is_away(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
        answer = ask(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert ask(path).status_code == 200


STRANGE = [
    'a"; x=y\r\nX-Evil: 1 ü.zip',
    "\u202egnp.zip",
    "日本語.zip",
    "a/../b\\c.zip",
    "x" * 200,
    "%0d%0aSet-Cookie: a=b.zip",
    ";',?#&=.zip",
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_name_stays_out_of_the_headers(
    task: UpgradeTask, package: FirmwarePackage, name: str
) -> None:
    plain = ask(path_of(task, package))
    FirmwarePackage.objects.update(file_name=name)
    package.refresh_from_db()
    answer = ask(path_of(task, package))
    assert answer.status_code == 200
    assert set(answer.headers) == set(plain.headers)
    assert answer.headers["content-disposition"].isascii()
    assert unquote(answer.headers["content-disposition"].partition("''")[2]) == name


@pytest.mark.parametrize("wrong", ["/firmware/", "/firmware/x", "/", "/admin/", "/healthz/"])
def test_nothing_else_is_here_and_nobody_is_redirected(wrong: str) -> None:
    assert ask(wrong).status_code == 404


def test_other_methods_are_refused(path: str) -> None:
    assert ask(path, "POST").status_code == 405


def test_a_slash_too_many_is_not_redirected(path: str) -> None:
    assert ask(f"{path}/").status_code == 404


def test_health_is_told() -> None:
    assert ask("/healthz").text == "ok\n"


@pytest.fixture
def running(processes: Processes) -> Running:
    """The server as people start it."""
    return processes.firmware()


@pytest.mark.services
def test_the_server_as_it_is_started_hands_out_a_part(running: Running) -> None:
    answer = httpx.get(address_of(CONTENT), headers={"Range": "bytes=2-3"})
    assert (answer.status_code, answer.content) == (206, CONTENT[2:4])


@pytest.mark.services
def test_links_are_not_logged(processes: Processes) -> None:
    """Not even by a server that was asked to log requests."""
    running = processes.firmware(logs_requests=True)
    address = address_of(CONTENT)
    httpx.get(address)
    running.wait_for_line("GET /firmware/***/")
    httpx.get(address.rpartition("/")[0])  # cut off before the name
    running.wait_for_line("GET /firmware/*** ")
    assert address.split("/")[4] not in running.output


@pytest.mark.services
def test_a_dock_that_is_slow_does_not_keep_the_server_from_ending(running: Running) -> None:
    with httpx.stream("GET", address_of(bytes(50_000_000))) as answer:
        next(answer.iter_raw(1000))
        running.terminate(8)
    assert "Traceback" not in running.output
