"""Live updates over the websocket: who may watch, what is sent, and how often."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import AsyncClient
from django.utils import timezone
from pytest_django import Settings

from config.asgi import application
from ota import consumers, live, rollouts, rows
from ota.models import Rollout, UpgradeTask
from ota.rows import State, View
from ota.states import TaskStatus
from tests.make import make_rollout, make_task

pytestmark = pytest.mark.django_db(transaction=True)

# In ALLOWED_HOSTS; another one would be refused before the consumer is asked.
ORIGIN = (b"origin", b"http://127.0.0.1")

WAIT = 30.0  # s; a busy machine answers late


class Browser(WebsocketCommunicator):
    """Waits longer than the second that others find enough."""

    async def connect(self, timeout: float = WAIT) -> tuple[bool, Any]:  # noqa: ASYNC109
        return await super().connect(timeout)

    async def receive_output(self, timeout: float = WAIT) -> Any:  # noqa: ASYNC109
        return await super().receive_output(max(timeout, WAIT))


Open = Callable[..., Awaitable[Browser]]


@pytest.fixture(autouse=True)
def layer(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.fixture(autouse=True)
async def connections_of_the_thread() -> AsyncIterator[None]:
    """Asynchronous code talks to the database from a thread, which nobody closes after a test."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def watcher() -> User:
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_rollout"))
    return user


@pytest.fixture
def rollout() -> Rollout:
    rollout = make_rollout()
    for _ in range(3):
        make_task(rollout=rollout)
    return rollout


async def browser(user: User | None, rollout_id: int, query: str = "") -> Browser:
    headers = [ORIGIN]
    if user:
        client = AsyncClient()
        await client.aforce_login(user)
        cookie = client.cookies["sessionid"].value
        headers.append((b"cookie", f"sessionid={cookie}".encode()))
    return Browser(application, f"/ws/rollouts/{rollout_id}/{query}", headers)


@pytest.fixture
async def watch(watcher: User, rollout: Rollout) -> AsyncIterator[Open]:
    """Opens browsers that may watch the rollout; they leave with the test."""
    opened: list[Browser] = []

    async def open_browser(query: str = "") -> Browser:
        opened.append(await browser(watcher, rollout.pk, query))
        connected, _ = await opened[-1].connect()
        assert connected
        return opened[-1]

    yield open_browser
    for one in opened:
        await one.disconnect()


async def answer_page(one: Browser) -> None:
    await one.send_json_to({"seen": (await one.receive_json_from())["token"]})


async def announce(rollout: Rollout, *ids: int) -> None:
    channels: Any = get_channel_layer()
    await channels.group_send(live.group(rollout.pk), {"type": "tasks.changed", "ids": list(ids)})


async def updates(one: Browser) -> list[dict[str, Any]]:
    """What comes until nothing comes for two beats."""
    found = []
    while not await one.receive_nothing(2 * consumers.BEAT):
        found.append(await one.receive_json_from())
    return found


def keys(rollout: Rollout) -> list[int]:
    return list(rollout.tasks.order_by("pk").values_list("pk", flat=True))


async def test_staff_with_the_permission_get_the_full_state_first(watch: Open) -> None:
    page = await (await watch()).receive_json_from()
    assert (page["type"], page["page"], page["pages"]) == ("page", 1, 1)
    assert page["counts"]["pending"] == 3
    assert [task["status"] for task in page["tasks"]] == ["pending"] * 3


async def test_nobody_watches_without_logging_in(rollout: Rollout) -> None:
    assert await (await browser(None, rollout.pk)).connect() == (False, consumers.ANONYMOUS)


async def test_staff_without_the_permission_are_refused(rollout: Rollout) -> None:
    user = await sync_to_async(User.objects.create_user)("sam", is_staff=True)
    assert await (await browser(user, rollout.pk)).connect() == (False, consumers.FORBIDDEN)


async def test_the_permission_is_not_enough_without_being_staff(
    watcher: User, rollout: Rollout
) -> None:
    await User.objects.filter(pk=watcher.pk).aupdate(is_staff=False)
    assert await (await browser(watcher, rollout.pk)).connect() == (False, consumers.FORBIDDEN)


async def test_a_rollout_that_does_not_exist_is_told_apart(watcher: User) -> None:
    assert await (await browser(watcher, 404)).connect() == (False, consumers.UNKNOWN)


@pytest.mark.parametrize("path", ["/nope", "/ws/rollouts/2", "/ws/rollouts/two/", "/ws/"])
async def test_an_address_where_nothing_is_live_is_refused_as_a_rollout_that_does_not_exist(
    path: str,
) -> None:
    assert await Browser(application, path, [ORIGIN]).connect() == (False, consumers.UNKNOWN)


async def test_a_change_sends_its_row_and_the_counts(watch: Open, rollout: Rollout) -> None:
    one = await watch()
    await one.receive_json_from()
    changed = (await sync_to_async(keys)(rollout))[1]
    await UpgradeTask.objects.filter(pk=changed).aupdate(status=TaskStatus.IN_PROGRESS, percent=42)
    await announce(rollout, changed)
    update = await one.receive_json_from()
    assert update["type"] == "changes"
    assert update["counts"]["in_progress"] == 1
    assert [(task["id"], task["percent"]) for task in update["tasks"]] == [(changed, 42)]


async def test_pausing_is_seen_at_once_on_the_page_and_in_its_rows(
    watch: Open, rollout: Rollout
) -> None:
    one = await watch()
    await one.receive_json_from()
    await sync_to_async(rollouts.stop)(rollout, "package A.zip is damaged", timezone.now())
    shown = await sync_to_async(keys)(rollout)
    await announce(rollout, 0, *shown)
    update = await one.receive_json_from()
    assert update["rollout"]["status"] == "paused"
    assert update["rollout"]["pause_reason"] == "package A.zip is damaged"
    assert {task["note"] for task in update["tasks"]} == {"Not issued while the rollout is paused"}


async def test_a_row_that_is_not_shown_is_not_sent(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 2)
    one = await watch()
    page = await one.receive_json_from()
    first, second, third = await sync_to_async(keys)(rollout)
    assert ([task["id"] for task in page["tasks"]], page["pages"]) == ([first, second], 2)
    await announce(rollout, third)
    update = await one.receive_json_from()
    assert (update["type"], update["tasks"], update["counts"]["pending"]) == ("changes", [], 3)


async def test_what_is_planned_again_appears_at_the_end_of_the_last_page(
    watch: Open, rollout: Rollout
) -> None:
    now = timezone.now()
    shown = await sync_to_async(keys)(rollout)
    failed = UpgradeTask.objects.filter(pk=shown[0])
    await failed.aupdate(status=TaskStatus.FAILED, finished_at=now)
    one = await watch()
    await one.receive_json_from()
    (made,) = await sync_to_async(rollouts.retry)(rollout, now)
    await announce(rollout, 0, made.pk)
    update = await one.receive_json_from()
    assert update["type"] == "page"
    assert [task["id"] for task in update["tasks"]] == [*shown, made.pk]


async def test_the_first_task_appears_where_there_was_none(watch: Open, rollout: Rollout) -> None:
    await rollout.tasks.all().adelete()
    one = await watch()
    assert (await one.receive_json_from())["tasks"] == []
    made = await sync_to_async(make_task)(rollout=rollout)
    await announce(rollout, made.pk)
    update = await one.receive_json_from()
    assert [task["id"] for task in update["tasks"]] == [made.pk]


@pytest.fixture
def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[int]]:
    """The keys of each reading of changes."""
    found: list[frozenset[int]] = []
    changes = rows.changes

    def spy(
        rollout_id: int, wanted: View, shown: tuple[int, ...], changed: frozenset[int]
    ) -> State:
        found.append(changed)
        return changes(rollout_id, wanted, shown, changed)

    monkeypatch.setattr(rows, "changes", spy)
    return found


@pytest.mark.parametrize(
    ("query", "size", "place"),
    [("", 2, -1), ("?page=2", 2, 0), ("?task={first}", 50, -1)],
    ids=["behind a full page", "before the last page", "beside a single task"],
)
async def test_a_change_elsewhere_is_not_looked_for_among_what_is_shown(
    watch: Open,
    rollout: Rollout,
    monkeypatch: pytest.MonkeyPatch,
    looked_for: list[frozenset[int]],
    query: str,
    size: int,
    place: int,
) -> None:
    monkeypatch.setattr(rows, "PAGE", size)
    pks = await sync_to_async(keys)(rollout)
    one = await watch(query.format(first=pks[0]))
    await one.receive_json_from()
    await announce(rollout, pks[place])
    assert (await one.receive_json_from())["tasks"] == []
    assert looked_for == [frozenset()]


async def test_the_query_string_names_the_page(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 2)
    page = await (await watch("?page=2")).receive_json_from()
    assert page["page"] == 2
    assert [task["id"] for task in page["tasks"]] == (await sync_to_async(keys)(rollout))[2:]


async def test_a_browser_turns_the_page_by_a_message(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 2)
    one = await watch()
    await one.receive_json_from()
    await one.send_json_to({"status": "pending", "page": 2})
    page = await one.receive_json_from()
    assert (page["type"], page["status"], page["page"]) == ("page", "pending", 2)
    assert [task["id"] for task in page["tasks"]] == (await sync_to_async(keys)(rollout))[2:]


async def test_a_task_that_leaves_the_filter_leaves_the_page(watch: Open, rollout: Rollout) -> None:
    one = await watch("?status=pending")
    await one.receive_json_from()
    gone, *stay = await sync_to_async(keys)(rollout)
    await UpgradeTask.objects.filter(pk=gone).aupdate(status=TaskStatus.SENT)
    await announce(rollout, gone)
    page = await one.receive_json_from()
    assert (page["type"], [task["id"] for task in page["tasks"]]) == ("page", stay)


WRONG = [
    *("no json", "[]", "[" * 10_000, '{"status": "odd"}', '{"status": {}}'),
    *('{"page": 0}', '{"page": [1]}', '{"page": true}', '{"page": 99999999999999999999}'),
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
async def test_a_wrong_message_is_answered_and_harms_nothing(watch: Open, wrong: str) -> None:
    one = await watch()
    await one.receive_json_from()
    await one.send_to(text_data=wrong)
    assert (await one.receive_json_from())["type"] == "error"
    await one.send_json_to({"page": 1})
    assert (await one.receive_json_from())["type"] == "page"


class SlowPages:
    """A page's reading that does not end until it may."""

    def __init__(self) -> None:
        self._loop, self._full = asyncio.get_running_loop(), rows.full
        self.begun, self.may_end = asyncio.Event(), threading.Event()

    def __call__(self, rollout_id: int, wanted: View) -> State:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.may_end.wait(WAIT)
        return self._full(rollout_id, wanted)


@pytest.fixture
async def slow_pages(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowPages]:
    slow = SlowPages()
    monkeypatch.setattr(rows, "full", slow)
    yield slow
    slow.may_end.set()


async def ask(one: Browser) -> None:
    """Has the browser told something: what came before has been taken in then."""
    for _ in range(2):
        await one.send_to(text_data="no json")
        assert (await one.receive_json_from())["type"] == "error"


async def test_a_message_is_answered_while_the_database_is_slow(
    watch: Open, slow_pages: SlowPages
) -> None:
    one = await watch()
    await slow_pages.begun.wait()
    await ask(one)
    slow_pages.may_end.set()
    assert (await one.receive_json_from())["type"] == "page"


async def test_of_what_changes_while_the_page_is_read_only_what_it_shows_is_looked_for(
    watch: Open, rollout: Rollout, slow_pages: SlowPages, looked_for: list[frozenset[int]]
) -> None:
    pks = await sync_to_async(keys)(rollout)
    one = await watch()
    await slow_pages.begun.wait()
    await announce(rollout, *range(pks[0], pks[0] + live.MOST))
    await ask(one)
    slow_pages.may_end.set()
    assert (await one.receive_json_from())["type"] == "page"
    assert [task["id"] for task in (await one.receive_json_from())["tasks"]] == pks
    assert looked_for == [frozenset({0, *pks})]


async def test_a_burst_of_changes_is_sent_four_times_a_second_at_most(
    watch: Open, rollout: Rollout
) -> None:
    one = await watch()
    await one.receive_json_from()
    changed = (await sync_to_async(keys)(rollout))[0]
    started, announced = time.monotonic(), 0
    while announced < 100 or time.monotonic() < started + 3 * consumers.BEAT:
        await announce(rollout, changed)
        await asyncio.sleep(0)  # lets the consumer take it
        announced += 1
    beats = (time.monotonic() - started) / consumers.BEAT
    assert 2 <= len(await updates(one)) <= beats + 1
    assert 1 / consumers.BEAT <= 4


async def fall_behind(one: Browser, rollout: Rollout) -> str:
    """Takes what comes until nothing comes any more, answers nothing, and returns the last token."""
    token = (await one.receive_json_from())["token"]
    for _ in range(consumers.AHEAD - 1):
        await announce(rollout, 0)
        token = (await one.receive_json_from())["token"]
    await announce(rollout, 0)
    assert await one.receive_nothing(10 * consumers.BEAT)
    return str(token)


async def test_a_browser_that_answers_nothing_is_not_sent_more_until_it_does(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "BEAT", 0.02)
    one = await watch()
    token = await fall_behind(one, rollout)
    await one.send_json_to({"seen": token})
    assert (await one.receive_json_from())["type"] == "changes"


@pytest.mark.parametrize("token", [1, None, "", [], "a guess"])
async def test_an_answer_to_nothing_counts_as_none(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch, token: Any
) -> None:
    monkeypatch.setattr(consumers, "BEAT", 0.02)
    one = await watch()
    await fall_behind(one, rollout)
    for _ in range(100):
        await one.send_json_to({"seen": token})
    assert await one.receive_nothing(10 * consumers.BEAT)


async def test_a_browser_that_sees_nothing_is_sent_away(
    watch: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REFRESH", 0.3)
    one = await watch()
    while (sent := await one.receive_output(5))["type"] == "websocket.send":
        pass
    assert (sent["type"], sent["code"]) == ("websocket.close", consumers.SILENT)


async def test_a_browser_that_sends_nonsense_is_not_answered_for_ever(watch: Open) -> None:
    one = await watch()
    await one.receive_json_from()
    for _ in range(consumers.MOST_MISTAKES):
        await one.send_to(text_data="no json")
        assert (await one.receive_json_from())["type"] == "error"
    await one.send_to(text_data="no json")
    sent = await one.receive_output(5)
    assert (sent["type"], sent["code"]) == ("websocket.close", consumers.NONSENSE)


async def test_a_change_of_very_many_tasks_is_told_without_their_keys(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST", 2)
    one = await watch()
    await one.receive_json_from()
    pks = await sync_to_async(keys)(rollout)
    await rollout.tasks.aupdate(percent=7)
    monkeypatch.setattr(live, "_changed", {rollout.pk: set(pks)})
    assert await live._send() == ""
    update = await one.receive_json_from()
    assert {(task["id"], task["percent"]) for task in update["tasks"]} == {(pk, 7) for pk in pks}


async def test_who_loses_the_permission_is_sent_away(
    watch: Open, watcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REFRESH", 0.3)
    one = await watch()
    await answer_page(one)
    await sync_to_async(watcher.user_permissions.clear)()
    sent = await one.receive_output(5)
    assert (sent["type"], sent["code"]) == ("websocket.close", consumers.FORBIDDEN)


async def test_who_logs_out_is_sent_away(
    watcher: User, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REFRESH", 0.3)
    client = AsyncClient()
    await client.aforce_login(watcher)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    path = f"/ws/rollouts/{rollout.pk}/"
    one = Browser(application, path, [ORIGIN, (b"cookie", cookie)])
    await one.connect()
    await answer_page(one)
    await client.alogout()
    sent = await one.receive_output(5)
    assert (sent["type"], sent["code"]) == ("websocket.close", consumers.ANONYMOUS)
    await one.disconnect()


async def test_now_and_then_all_of_the_page_is_sent_anew(
    watch: Open, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REFRESH", 0.3)
    one = await watch()
    await answer_page(one)
    await rollout.tasks.aupdate(percent=7)  # and the announcement got lost
    page = await one.receive_json_from(5)
    assert (page["type"], page["tasks"][0]["percent"]) == ("page", 7)


async def test_the_page_of_a_task_watches_only_that_task(watch: Open, rollout: Rollout) -> None:
    task = (await sync_to_async(keys)(rollout))[1]
    page = await (await watch(f"?task={task}")).receive_json_from()
    assert [row["id"] for row in page["tasks"]] == [task]
