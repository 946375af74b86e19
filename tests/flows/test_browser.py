"""The operator's way through the console, in a real browser."""

import json
import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, ViewportSize, expect

from ota import live
from ota.models import News, Notice, Rollout, UpgradeTask
from ota.states import TaskStatus
from tests.browser import PASSWORD, enter, log_in
from tests.flows.conftest import Story
from tests.make import (
    make_aircraft,
    make_dock,
    make_listening,
    make_package,
    make_rollout,
    make_task,
)
from tests.people import make_person
from tests.processes import Processes

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


@pytest.fixture
def operator(transactional_db: None) -> User:
    return make_person("Operators", password=PASSWORD)


PAPER: ViewportSize = {"width": 720, "height": 1020}  # A4 between its margins, in pixels of CSS
PLACES = """(heads) => heads.map((head) => {
  const style = getComputedStyle(head.querySelector("th"));
  return [getComputedStyle(head).position, style.color];
})"""

WATCH_BARS = """() => {
  window.seen = {};
  const look = () => document.querySelectorAll("tr[data-task]").forEach((row) => {
    const bar = row.querySelector("progress");
    (window.seen[row.dataset.task] ??= []).push(bar.value);
  });
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def test_an_operator_upgrades_a_batch_and_sees_the_bars_move_to_the_end(
    story: Callable[..., Story], page: Page, operator: User
) -> None:
    told = story(size=3_000_000)
    told.processes.web()
    told.simulate(4, "--speed", "10", "--rate", "1500000")
    log_in(page, told.processes.web_url, operator)

    page.get_by_role("link", name="Devices").first.click()
    page.check("#action-toggle")
    page.select_option("select[name=action]", label="Upgrade firmware…")
    page.click("button[name=index]")
    expect(page.get_by_text("docks are ready")).to_be_visible()
    assert not Rollout.objects.exists()

    page.get_by_role("button", name=re.compile(r"Upgrade \d+ devices")).click()
    page.wait_for_url("**/ota/rollout/*/change/")
    page.evaluate(WATCH_BARS)
    expect(page.locator("[data-rollout=summary]")).to_contain_text("4 of 4 proven")
    expect(page.get_by_text("Finished").first).to_be_visible()

    seen: dict[str, list[int]] = page.evaluate("window.seen")  # kept: the page was never reloaded
    assert len(seen) == 4
    assert all(len(set(values)) > 3 and values[-1] == 100 for values in seen.values()), seen
    assert set(UpgradeTask.objects.values_list("status", flat=True)) == {TaskStatus.OK}

    page.emulate_media(color_scheme="dark")
    page.get_by_role("link", name="Report", exact=True).click()
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    heads = page.locator("thead").evaluate_all(PLACES)  # in the tables, and black
    assert set(map(tuple, heads)) == {("static", "rgb(0, 0, 0)")}


def test_a_page_that_lost_its_server_says_so_and_shows_the_new_state_when_it_is_back(
    processes: Processes, page: Page, operator: User
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=10)
    web = processes.web()
    enter(page, processes.web_url, operator)
    page.goto(f"{processes.web_url}/admin/ota/rollout/{task.rollout_id}/change/")
    expect(page.locator("progress[value='10']")).to_be_visible()
    web.kill9()
    expect(page.get_by_text("Connection lost, trying again…")).to_be_visible()
    UpgradeTask.objects.filter(pk=task.pk).update(percent=77)
    web.start()
    expect(page.locator("progress[value='77']")).to_be_visible()
    expect(page.get_by_text("Connection lost, trying again…")).to_be_hidden()


def test_a_page_that_was_idle_for_longer_than_redis_waits_still_hears_of_changes(
    processes: Processes, page: Page, operator: User
) -> None:
    task = make_task(rollout=make_rollout(), status=TaskStatus.IN_PROGRESS, percent=10)
    processes.web()
    enter(page, processes.web_url, operator)
    page.goto(f"{processes.web_url}/admin/ota/rollout/{task.rollout_id}/change/")
    expect(page.locator("progress[value='10']")).to_be_visible()
    page.wait_for_timeout(7_000)  # the idleness is the very thing; redis' socket timeout is 5 s
    UpgradeTask.objects.filter(pk=task.pk).update(percent=55)
    live.announce([(task.rollout_id, task.pk)])
    expect(page.locator("progress[value='55']")).to_be_visible(timeout=5_000)


def test_a_viewer_sees_no_upgrade_action(
    processes: Processes, page: Page, transactional_db: None
) -> None:
    make_task()
    processes.web()
    enter(page, processes.web_url, make_person("Viewers"))
    page.get_by_role("link", name="Devices").first.click()
    assert "Upgrade firmware" not in json.dumps(page.locator("option").all_inner_texts())


CUT_OFF = """() => {
  const cells = [...document.querySelectorAll("#result_list :is(td, th)")];
  const isCut = (cell) => cell.scrollWidth > cell.clientWidth + 1 || cell.getBoundingClientRect().right > innerWidth;
  return [cells.length > 0, cells.filter(isCut).map((cell) => cell.className)];
}"""


@pytest.mark.parametrize("width", [1400, 390])
def test_a_long_name_pushes_nothing_out_of_a_list(
    processes: Processes, page: Page, operator: User, width: int
) -> None:
    make_listening()
    name = f"Autumn, all docks of the northern site {'x' * 80}"
    task = make_task(make_dock(callsign=name[:100]), rollout=make_rollout(name=name))
    make_aircraft(task.gateway)
    now = timezone.now()
    news = News.objects.create(kind="finished", at=now, title=name, rollout=task.rollout)
    Notice.objects.create(user=operator, news=news, at=now)
    processes.web()
    enter(page, processes.web_url, operator)
    page.set_viewport_size({"width": width, "height": 844})
    for place in ("ota/rollout", "ota/notice", "ota/upgradetask", "fleet/device"):
        page.goto(f"{processes.web_url}/admin/{place}/")
        assert page.evaluate(CUT_OFF) == [True, []]


def test_no_table_of_a_preview_is_wider_than_a_phone(
    processes: Processes, page: Page, operator: User
) -> None:
    make_listening()
    make_package("10.01.3205")
    make_dock(callsign="A dock on the roof of the northern building")
    make_dock(mode_code=4)
    make_dock("10.01.3205")
    processes.web()
    enter(page, processes.web_url, operator)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{processes.web_url}/admin/fleet/device/upgrade/?query=")
    for group in page.locator("details.group > summary").all():
        group.click()
    expect(page.locator(".scroll:visible")).to_have_count(3)
    wider = page.locator(".scroll").evaluate_all(
        "all => all.map(e => e.scrollWidth - e.clientWidth)"
    )
    assert max(wider) <= 0
