"""The bell in the header, in a real browser."""

import datetime as dt

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, expect

from ota.models import News, Notice, Rollout
from tests.browser import enter
from tests.make import make_organization, make_rollout, make_webhook
from tests.people import make_person
from tests.processes import Processes

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

HALF_A_MINUTE = 30_000  # ms
COUNT_REPLACEMENTS = """() => {
  window.replacements = 0;
  const count = () => { window.replacements += 1; };
  new MutationObserver(count).observe(document.querySelector("[data-lines]"), { childList: true });
}"""


def notice(user: User, rollout: Rollout, title: str) -> Notice:
    now = timezone.now()
    news = News.objects.create(kind="stopped", at=now, rollout=rollout, title=title, told_at=now)
    return Notice.objects.create(user=user, news=news, at=now)


def ask(page: Page) -> None:
    """Has the bell look for news, as it does each half minute."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_bell_counts_on_and_opens_with_the_keyboard_on_a_narrow_screen(
    processes: Processes, page: Page, operator: User, theme: str
) -> None:
    rollout = make_rollout(name="Spring")
    notice(operator, rollout, "Spring has paused by itself")
    processes.web()
    enter(page, processes.web_url, operator)
    page.evaluate("theme => localStorage.setItem('adminTheme', JSON.stringify(theme))", theme)
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(f"{processes.web_url}/admin/ota/rollout/")
    assert page.evaluate("document.documentElement.classList.contains('dark')") == (theme == "dark")
    count = page.locator("[data-unread]")
    expect(count).to_have_text("1")

    notice(operator, rollout, "Autumn needs approval")
    ask(page)
    expect(count).to_have_text("2")

    page.locator(".bell summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".bell-line")).to_have_count(2)
    box = page.locator(".bell-panel").bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 420
    page.keyboard.press("Escape")
    expect(page.locator(".bell-panel")).to_be_hidden()

    page.keyboard.press("Enter")
    page.get_by_role("link", name="Spring has paused by itself").click()
    page.wait_for_url(f"**/ota/rollout/{rollout.pk}/change/")
    expect(page.locator("[data-unread]")).to_have_text("1")


def test_the_bells_name_tells_its_number(processes: Processes, page: Page, operator: User) -> None:
    processes.web()
    enter(page, processes.web_url, operator)
    bell = page.locator(".bell summary")
    expect(bell).to_have_accessible_name("Notices")
    notice(operator, make_rollout(), "Spring has paused by itself")
    ask(page)
    expect(bell).to_have_accessible_name("Notices, 1 new")


def test_an_open_bell_changes_only_when_something_happened(
    processes: Processes, page: Page, operator: User
) -> None:
    notice(operator, make_rollout(), "Spring has paused by itself")
    Notice.objects.update(at=timezone.now() - dt.timedelta(days=1, hours=6))  # says so for an hour
    processes.web()
    enter(page, processes.web_url, operator)
    page.locator(".bell summary").click()
    expect(page.locator(".bell-line")).to_have_count(1)
    page.evaluate(COUNT_REPLACEMENTS)
    with page.expect_response("**/bell/"):
        ask(page)
    notice(operator, make_rollout(), "Autumn needs approval")
    ask(page)
    expect(page.locator(".bell-line")).to_have_count(2)
    assert page.evaluate("window.replacements") == 1


def test_the_bell_counts_on_after_a_login_in_another_tab(
    processes: Processes, page: Page, operator: User
) -> None:
    processes.web()
    page.clock.install()
    enter(page, processes.web_url, operator)
    page.context.clear_cookies()
    with page.expect_response("**/bell/") as answer:
        page.clock.run_for(HALF_A_MINUTE)
    assert answer.value.status == 302
    enter(page.context.new_page(), processes.web_url, operator)
    notice(operator, make_rollout(), "Spring has paused by itself")
    page.clock.run_for(HALF_A_MINUTE)
    expect(page.locator("[data-unread]")).to_have_text("1")


def test_all_is_read_with_a_click(processes: Processes, page: Page, operator: User) -> None:
    notice(operator, make_rollout(), "Spring has paused by itself")
    processes.web()
    enter(page, processes.web_url, operator)
    page.goto(f"{processes.web_url}/admin/ota/notice/")
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_text("1 marked as read.")).to_be_visible()
    expect(page.locator("[data-unread]")).to_be_hidden()


def test_a_webhook_gets_a_new_secret_with_a_click(
    processes: Processes, page: Page, transactional_db: None
) -> None:
    keeper = make_person("Administrators")
    hook = make_webhook(make_organization())
    processes.web()
    enter(page, processes.web_url, keeper)
    page.goto(f"{processes.web_url}/admin/ota/webhook/{hook.pk}/change/")
    page.get_by_role("button", name="New secret").click()
    expect(page.get_by_text("This is shown once.")).to_be_visible()
    old = hook.secret
    hook.refresh_from_db()
    assert hook.secret != old
    expect(page.locator("#secret")).to_have_text(hook.secret)
