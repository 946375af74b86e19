"""A real browser for tests: Debian's Chromium."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth.models import User
from django.db import connections
from playwright.sync_api import Browser, Page, sync_playwright

from tests.servers import program

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PASSWORD = "only for this test"


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program("chromium", "chromium"), args=FLAGS
        )
        yield browser
        # While the driver's event loop runs in this thread, Django keeps connections of its own for
        # it, which nobody else would ever close.
        connections.close_all()
        browser.close()


def log_in(page: Page, url: str, user: User) -> None:
    """Through the form, at the console of this address."""
    page.goto(f"{url}/")
    page.fill("[name=username]", user.username)
    page.fill("[name=password]", PASSWORD)
    page.click("[type=submit]")
    page.wait_for_url("**/admin/")
