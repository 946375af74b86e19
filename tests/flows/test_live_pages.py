"""Pages that stay up to date by themselves, in a real browser: what they fetch, and when not."""

from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from ota import live, rollouts
from ota.models import UpgradeTask
from ota.states import TaskStatus
from tests.make import make_rollout, make_task

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

LOST = "Connection lost, trying again…"
FAILURES: list[dict[str, Any]] = [
    {"status": 502, "body": "Bad gateway"},
    {"status": 302, "headers": {"Location": "/admin/"}},
]

# Keeps the page's websockets and what they said last, and counts what it fetches.
SPY = """
  window.sockets = [];
  window.WebSocket = class extends WebSocket {
    constructor(...values) {
      super(...values);
      window.sockets.push(this);
      this.addEventListener("message", (event) => { window.said = event.data; });
    }
  };
  window.fetched = 0;
  const original = window.fetch;
  window.fetch = (...values) => { window.fetched += 1; return original(...values); };
"""
SAY_AGAIN = """(fields) => {
  const message = { ...JSON.parse(window.said), token: "another" };
  Object.assign(message.tasks[0], fields);
  window.sockets[0].dispatchEvent(new MessageEvent("message", { data: JSON.stringify(message) }));
}"""


def look_at(page: Page, what: str, pk: int) -> None:
    page.goto(f"{page.url.split('/admin/')[0]}/admin/ota/{what}/{pk}/change/")


def tell(task: UpgradeTask, **fields: Any) -> None:
    """Changes a task as the bridge does."""
    UpgradeTask.objects.filter(pk=task.pk).update(**fields)
    live.announce([(task.rollout_id, task.pk)])


def test_numbers_that_a_rollouts_page_learns_have_separators_as_those_it_came_with(
    console: Page,
) -> None:
    task = make_task(rollout=make_rollout())
    look_at(console, "rollout", task.rollout_id)
    all_of_them = console.locator('a[data-filter=""] b')
    expect(all_of_them).to_have_text("1")
    now = timezone.now()
    ended = {"status": TaskStatus.OK, "status_at": now, "finished_at": now}
    ended |= {"rollout": task.rollout, "wave": task.wave, "gateway": task.gateway}
    UpgradeTask.objects.bulk_create(UpgradeTask(**ended) for _ in range(1233))
    live.announce([(task.rollout_id, task.pk)])
    expect(all_of_them).to_have_text("1,234")


@pytest.mark.parametrize("failure", FAILURES, ids=["an error", "another page"])
def test_a_rollouts_page_that_could_not_be_fetched_is_with_the_next_message(
    console: Page, failure: dict[str, Any]
) -> None:
    rollout = make_task(rollout=make_rollout()).rollout
    look_at(console, "rollout", rollout.pk)
    expect(console.locator("summary", has_text="Pause")).to_be_visible()
    console.route(console.url, lambda route: route.fulfill(**failure), times=1)
    rollouts.pause(rollout, timezone.now())
    expect(console.get_by_text(LOST)).to_be_visible()
    live.announce([(rollout.pk, 0)])
    expect(console.locator("summary", has_text="Resume")).to_be_visible()
    expect(console.get_by_text(LOST)).to_be_hidden()


def test_a_tasks_page_that_could_not_be_fetched_is_with_the_next_message(console: Page) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=10)
    look_at(console, "upgradetask", task.pk)
    expect(console.get_by_text("10 %", exact=True)).to_be_visible()
    console.route(console.url, lambda route: route.fulfill(status=502), times=1)
    tell(task, percent=77)
    expect(console.get_by_text(LOST)).to_be_visible()
    live.announce([(task.rollout_id, 0)])
    expect(console.get_by_text("77 %", exact=True)).to_be_visible()
    expect(console.get_by_text(LOST)).to_be_hidden()


def test_an_open_confirmation_stays_while_its_tasks_page_is_fetched(console: Page) -> None:
    task = make_task(rollout=make_rollout())
    look_at(console, "upgradetask", task.pk)
    cancel = console.locator("summary", has_text="Cancel")
    cancel.click()
    for reason in ("the dock is offline", "its battery is low"):
        tell(task, waits_for=[{"code": "any", "text": reason}])
        expect(console.get_by_text(f"Waits: {reason}")).to_be_visible()
        expect(console.get_by_role("button", name="Cancel it")).to_be_visible()
    tell(task, status=TaskStatus.SENT)
    expect(console.get_by_text("Waits for the dock's answer")).to_be_visible()
    expect(console.get_by_role("button", name="Cancel it")).to_be_visible()
    cancel.click()
    expect(cancel).to_have_count(0)


def test_focus_and_selection_stay_while_a_tasks_page_is_fetched(console: Page) -> None:
    task = make_task(rollout=make_rollout())
    look_at(console, "upgradetask", task.pk)
    cancel = console.locator("summary", has_text="Cancel")
    cancel.focus()
    console.locator(".ota-facts .ota-mono").first.select_text()
    tell(task, retries=2, waits_for=[{"code": "any", "text": "the dock is offline"}])
    expect(console.get_by_text("Waits: the dock is offline")).to_be_visible()
    assert console.evaluate("getSelection().toString()") == task.bid
    expect(cancel).to_be_focused()
    expect(console.get_by_text("Sent again after failures")).to_have_count(0)
    console.evaluate("getSelection().removeAllRanges()")
    expect(console.get_by_text("Sent again after failures")).to_be_visible()


def test_a_tasks_page_is_not_fetched_for_what_it_shows_already(console: Page) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=10)
    console.clock.install()
    console.add_init_script(SPY)
    look_at(console, "upgradetask", task.pk)
    console.wait_for_function("window.said")
    console.evaluate(SAY_AGAIN, {})
    console.clock.run_for(5_000)
    assert console.evaluate("window.fetched") == 0
    console.evaluate(SAY_AGAIN, {"percent": 77})
    console.clock.run_for(5_000)
    assert console.evaluate("window.fetched") == 1


def test_what_changed_before_a_tasks_page_was_connected_is_shown_soon(console: Page) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=10)

    def change_meanwhile(route: Route) -> None:
        UpgradeTask.objects.filter(pk=task.pk).update(percent=77)  # and nobody is told
        route.continue_()

    console.route("**/ota/rollout*.js*", change_meanwhile, times=1)  # after the page itself
    look_at(console, "upgradetask", task.pk)
    expect(console.get_by_text("77 %", exact=True)).to_be_visible(timeout=20_000)


def test_a_lost_connection_is_tried_again_though_the_page_does_not_answer(console: Page) -> None:
    task = make_task(rollout=make_rollout())
    console.add_init_script(SPY)
    look_at(console, "rollout", task.rollout_id)
    console.wait_for_function("window.said")
    console.route(console.url, lambda route: None)  # never answered
    with console.expect_websocket():
        console.evaluate("window.sockets[0].close()")
