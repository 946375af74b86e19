"""A real browser for tests: Debian's Chromium, see the fixtures ``browser`` and ``page``."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.servers import program

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PATIENCE = 120_000  # ms; a machine that is busy with other things does not decide
PASSWORD = "only for this test"

expect.set_options(timeout=PATIENCE)


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


def new_page(browser: Browser) -> Page:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    return context.new_page()


def log_in(page: Page, url: str, user: User) -> None:
    """Through the form, at the console of this address."""
    page.goto(f"{url}/")
    page.fill("[name=username]", user.username)
    page.fill("[name=password]", PASSWORD)
    page.click("[type=submit]")
    page.wait_for_url("**/admin/")


def enter(page: Page, url: str, user: User) -> None:
    """As somebody who has logged in before: without the form, which costs a second of hashing."""
    client = Client()
    client.force_login(user)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": url}])
    page.goto(f"{url}/admin/")
