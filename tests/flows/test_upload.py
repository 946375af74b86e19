"""A package on its way from the operator's browser into the library."""

import datetime as dt
import hashlib
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from playwright.sync_api import Page, expect

from ota import storage
from ota.models import FirmwarePackage, ProductCode, Upload
from ota.states import PackageState
from simulator.packages import build
from tests.browser import PASSWORD, enter, log_in
from tests.cable import Cable
from tests.make import make_model
from tests.people import make_person
from tests.processes import Processes, eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

MB = 1 << 20
ADD = "/admin/ota/firmwarepackage/add/"


@pytest.fixture
def administrator(transactional_db: None) -> User:
    ProductCode.objects.create(code="wm9s2").models.add(make_model("3-2-0"))
    return make_person("Administrators", password=PASSWORD)


@pytest.fixture
def zip_40(tmp_path: Path) -> Path:
    return build(tmp_path, "DOCK2", "10.01.3205", dt.date(2024, 11, 7), 40 * MB)


def choose(page: Page, url: str, path: Path) -> None:
    page.goto(f"{url}{ADD}")
    page.set_input_files("#upload-file", path)


def percent_reaches(page: Page, percent: int) -> None:
    page.wait_for_function(
        f"parseInt(document.getElementById('upload-percent').textContent) >= {percent}"
    )


def is_available(package: FirmwarePackage) -> bool:
    package.refresh_from_db()
    return package.state == PackageState.AVAILABLE


def test_an_upload_goes_on_after_cuts_and_arrives_whole(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    processes.web()
    processes.worker()
    processes.beat()
    with Cable(processes.web_port, cuts=[11 * MB, 29 * MB]) as cable:
        enter(page, cable.url, administrator)
        choose(page, cable.url, zip_40)
        page.click("#package-add")  # goes by itself at the end
        page.wait_for_url("**/change/")
        assert cable.cuts_made == 2
    package = FirmwarePackage.objects.get()
    content = zip_40.read_bytes()
    assert package.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert package.sha256 == hashlib.sha256(content).hexdigest()
    assert Path(package.file.path).read_bytes() == content
    eventually(lambda: is_available(package), "the check of the bytes")
    assert not Upload.objects.exists()


def test_an_upload_goes_on_in_a_new_page_where_it_stopped(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    processes.web()
    with Cable(processes.web_port, rate=20 * MB) as cable:
        enter(page, cable.url, administrator)
        choose(page, cable.url, zip_40)
        percent_reaches(page, 45)
        page.goto("about:blank")
        before = cable.carried
        cable.rate = 0
        page.goto(f"{cable.url}{ADD}")
        expect(page.get_by_text("choose the file again to go on")).to_be_visible()
        choose(page, cable.url, zip_40)
        expect(page.locator("#upload-here")).to_be_visible()
        assert cable.carried - before < 33 * MB
    upload = Upload.objects.get()
    assert upload.sha256 == hashlib.sha256(zip_40.read_bytes()).hexdigest()


def test_bytes_go_straight_to_the_bucket_and_go_on_in_a_new_page(
    processes: Processes, bucket: str, page: Page, administrator: User, zip_40: Path
) -> None:
    with Cable(int(bucket.rpartition(":")[2]), rate=15 * MB) as cable:
        processes.environment["STORAGE_URL"] = f"s3://fleet/library?endpoint={cable.url}"
        processes.web()
        processes.worker()
        processes.beat()
        enter(page, processes.web_url, administrator)
        choose(page, processes.web_url, zip_40)
        percent_reaches(page, 45)
        page.goto("about:blank")
        cable.rate = 0
        choose(page, processes.web_url, zip_40)
        percent_reaches(page, 40)
        page.click("#package-add")
        page.wait_for_url("**/change/")
        package = FirmwarePackage.objects.get()
        eventually(lambda: is_available(package), "the check of the bytes")
    assert package.sha256 == hashlib.sha256(zip_40.read_bytes()).hexdigest()


def test_a_server_that_was_killed_is_waited_for(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    web = processes.web()
    with Cable(processes.web_port, rate=20 * MB) as cable:
        enter(page, cable.url, administrator)
        choose(page, cable.url, zip_40)
        percent_reaches(page, 30)
        web.kill9()
        expect(page.get_by_text("Connection lost, trying again…")).to_be_visible()
        cable.rate = 0
        web.start()
        expect(page.locator("#upload-here")).to_be_visible()
    upload = Upload.objects.get()
    assert storage.path(upload.key).read_bytes() == zip_40.read_bytes()
    assert not upload.sha256  # no process has seen all bytes


def test_an_upload_pauses_goes_on_and_is_canceled(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    processes.web()
    with Cable(processes.web_port, rate=10 * MB) as cable:
        enter(page, cable.url, administrator)
        choose(page, cable.url, zip_40)
        percent_reaches(page, 25)
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_text("Paused.")).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        percent_reaches(page, 50)
        page.get_by_role("button", name="Cancel upload").click()
        expect(page.get_by_text("Choose a package")).to_be_visible()
        eventually(lambda: not Upload.objects.exists(), "the end of the upload")


def test_who_was_logged_out_is_told_and_goes_on_after_a_login(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    processes.web()
    with Cable(processes.web_port, rate=20 * MB) as cable:
        enter(page, cable.url, administrator)
        choose(page, cable.url, zip_40)
        percent_reaches(page, 25)
        Session.objects.all().delete()
        expect(page.get_by_text("Log in again in another tab")).to_be_visible()
        cable.rate = 0
        log_in(page.context.new_page(), cable.url, administrator)
        expect(page.locator("#upload-here")).to_be_visible()


def test_a_file_over_the_limit_is_refused_in_words(
    processes: Processes, page: Page, administrator: User, zip_40: Path
) -> None:
    processes.web(UPLOAD_LIMIT_GB="0.01")
    enter(page, processes.web_url, administrator)
    choose(page, processes.web_url, zip_40)
    expect(page.get_by_role("alert")).to_contain_text("40.0 MiB; at most 10.2 MiB are taken")
    expect(page.get_by_text("Choose a package")).to_be_visible()
