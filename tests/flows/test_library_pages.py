"""A package's page in a real browser, while a worker reads its bytes."""

import pytest
from playwright.sync_api import Page, expect

from ota.models import FirmwarePackage
from ota.states import PackageState
from tests.browser import enter
from tests.make import make_package
from tests.people import make_person
from tests.processes import Processes

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

READING = "Its bytes are being read."


@pytest.fixture
def package(transactional_db: None) -> FirmwarePackage:
    return make_package(state=PackageState.CHECKING)


@pytest.fixture
def opened(page: Page, processes: Processes, package: FirmwarePackage) -> Page:
    """The package's page, as an administrator sees it."""
    processes.web()
    enter(page, processes.web_url, make_person("Administrators"))
    page.goto(f"{processes.web_url}/admin/ota/firmwarepackage/{package.pk}/change/")
    expect(page.get_by_text(READING)).to_be_visible()
    return page


def test_the_page_shows_the_result_by_itself(opened: Page) -> None:
    FirmwarePackage.objects.update(state=PackageState.DRAFT, problem="Its bytes are wrong.")
    expect(opened.get_by_text("Its bytes are wrong.")).to_be_visible()
    expect(opened.get_by_text(READING)).to_have_count(0)


def test_what_was_typed_is_not_lost_when_the_result_comes(opened: Page) -> None:
    opened.fill("[name=notes]", "Half a sentence")
    FirmwarePackage.objects.update(state=PackageState.AVAILABLE)
    expect(opened.get_by_role("link", name="show the result")).to_be_visible()
    expect(opened.locator("[name=notes]")).to_have_value("Half a sentence")


def test_no_page_is_wider_than_a_phone(opened: Page, package: FirmwarePackage) -> None:
    FirmwarePackage.objects.update(
        file_name=f"{'M3D_' * 40}.zip", problem="x" * 300, notes="y" * 300
    )
    opened.set_viewport_size({"width": 420, "height": 900})
    for name in ("change", "history"):
        opened.goto(opened.url.replace("/change/", f"/{name}/"))
        wider = opened.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0
