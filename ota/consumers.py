"""Live updates to browsers: one rollout, as far as a browser shows it.

A browser is told the full state of its page when it comes, when it turns the page, and now and
then; in between only what changed. Everything is sent on the beat of one clock, four times a
second at most, so that browsers which show the same share what is read from the database.

Daphne keeps in memory what a browser does not read, without a limit and without telling. So each
update has a token that nobody can guess, and a browser answers with it: one that has not seen
``AHEAD`` updates gets no more, and one that sees none for ``REFRESH`` is sent away.
"""

import asyncio
import collections
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from channels.auth import get_user
from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth.models import User

from ota import live, rows
from ota.models import Rollout
from ota.rows import View

logger = logging.getLogger(__name__)

BEAT = 0.25  # s
# After this time permission is looked at again and the page is sent anew: what Redis lost while
# it was away is put right by it.
REFRESH = 30.0  # s
# How many updates a browser may be behind.
AHEAD = 4
# How many messages that make no sense are answered; ours sends none.
MOST_MISTAKES = 10

NONSENSE, ANONYMOUS, FORBIDDEN, UNKNOWN, SILENT, FAILED = 4400, 4401, 4403, 4404, 4408, 1011

_Shown = tuple[int, ...] | None


class _Wanted(NamedTuple):
    """What to read for a browser; ``shown`` is None where it knows nothing yet."""

    rollout_id: int
    view: View
    shown: _Shown
    changed: frozenset[int]


class _Update(NamedTuple):
    """What is sent, the token inside, and the tasks that the browser shows from then on."""

    text: str
    token: str
    shown: tuple[int, ...]


class _Unseen(NamedTuple):
    """An update that the browser has not answered yet."""

    token: str
    sent_at: float


class _Reading(NamedTuple):
    started_at: float
    update: asyncio.Task[_Update]


_readings: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Wanted, _Reading]]
_readings = WeakKeyDictionary()


class RolloutConsumer(AsyncWebsocketConsumer):
    """One browser that watches one rollout.

    It says what it shows as ``{"page": 2, "status": "failed"}``, in the query string or later on.
    It answers each update with ``{"seen": token}``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._view = View()
        self._shown: _Shown = None  # None: nothing yet, or not this view
        self._changed: set[int] = set()
        self._has_all_changed = False
        self._has_news = True
        self._news_at = 0.0
        self._unseen: collections.deque[_Unseen] = collections.deque()
        self._mistakes = 0
        self._wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def dispatch(self, message: Any) -> None:
        """As channels does it, but without a visit to the database's thread, dear and at times busy.

        Connections that are too old are closed by ``database_sync_to_async``: nothing else here reads.
        """
        await getattr(self, get_handler_name(message))(message)

    async def connect(self) -> None:
        self._rollout_id: int = self.scope["url_route"]["kwargs"]["rollout_id"]
        code = await self._refusal() or await self._absence()
        if code:
            await self.close(code)
            return
        # Another page than the first is a wish; a wrong one is no reason to refuse.
        with contextlib.suppress(ValueError):
            self._view = rows.view(dict(parse_qsl(self.scope["query_string"].decode("latin-1"))))
        await self.channel_layer.group_add(live.group(self._rollout_id), self.channel_name)
        self._tell()
        await self.accept()
        self._sender = asyncio.create_task(self._send_for_ever())

    async def disconnect(self, code: int) -> None:
        if self._sender:
            self._sender.cancel()
            await self.channel_layer.group_discard(live.group(self._rollout_id), self.channel_name)

    async def tasks_changed(self, event: dict[str, Any]) -> None:
        """From ``live.announce``, keys in order; only what concerns this browser is kept."""
        ids = event["ids"]
        # Too many for their keys, or nobody knows yet which of them matter: thousands would be kept.
        if ids is None or self._shown is None:
            self._has_all_changed = True
        else:
            self._changed |= self._concerning(ids, self._shown)
        self._tell()

    def _concerning(self, ids: list[int], shown: tuple[int, ...]) -> set[int]:
        """Those that the browser shows, and one that is new: keys grow, so it comes last, if there is room."""
        newest = ids[-1]
        has_room = not self._view.task and len(shown) < rows.PAGE
        is_new = has_room and newest > max(shown, default=0)
        return set(shown).intersection(ids) | ({newest} if is_new else set())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            self._take(json.loads(text_data or ""))
        except (ValueError, RecursionError) as error:
            self._mistakes += 1
            if self._mistakes > MOST_MISTAKES:
                await self.close(NONSENSE)
                return
            problem = f"not understood: {error}"[:200]
            await self.send(json.dumps({"type": "error", "text": problem}))

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ValueError("expected an object")  # noqa: TRY004  # as any other wrong value
        if "seen" in message:
            self._saw(message["seen"])
        else:
            self._view = rows.view(message)
            self._forget()

    def _saw(self, token: Any) -> None:
        """This update has arrived, and so has what was sent before it."""
        if token in [one.token for one in self._unseen]:
            while self._unseen.popleft().token != token:
                pass
            self._wake.set()

    def _forget(self) -> None:
        """Has all of the view sent again."""
        self._shown = None
        self._changed.clear()
        self._tell()

    def _tell(self) -> None:
        """Tells the sender that there is news."""
        self._has_news, self._news_at = True, time.monotonic()
        self._wake.set()

    async def _refusal(self) -> int | None:
        """Why this user may not watch, by the session as it is stored now."""
        store = import_module(settings.SESSION_ENGINE).SessionStore
        session = store(self.scope["session"].session_key)
        user = await get_user({**self.scope, "session": session})
        if not isinstance(user, User):
            return ANONYMOUS
        return None if await database_sync_to_async(_may_watch)(user) else FORBIDDEN

    async def _absence(self) -> int | None:
        exists = database_sync_to_async(Rollout.objects.filter(pk=self._rollout_id).exists)
        return None if await exists() else UNKNOWN

    async def _send_for_ever(self) -> None:
        """Sends what is new on each beat, until the browser leaves or may not watch any more."""
        try:
            code = await self._send_until_refused()
        except Exception:
            logger.exception("live updates of rollout %s end", self._rollout_id)
            code = FAILED
        await self.close(code)

    async def _send_until_refused(self) -> int:
        refresh_at = time.monotonic() + REFRESH
        while True:
            await self._next_beat(refresh_at)
            if time.monotonic() >= refresh_at:
                if code := await self._refusal() or (SILENT if self._is_silent else None):
                    return code
                refresh_at = time.monotonic() + REFRESH
                self._forget()
            if self._has_news and not self._is_too_far_behind:
                await self._send_news()

    @property
    def _is_too_far_behind(self) -> bool:
        return len(self._unseen) >= AHEAD

    @property
    def _is_silent(self) -> bool:
        """Whether it has seen nothing for a while, though there was something."""
        return bool(self._unseen) and self._unseen[0].sent_at < time.monotonic() - REFRESH

    async def _next_beat(self, until: float) -> None:
        """Waits for something to do, but not for ever, and then for the beat."""
        self._wake.clear()
        if not self._has_news or self._is_too_far_behind:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._wake.wait()
        await asyncio.sleep(BEAT - time.monotonic() % BEAT)

    async def _send_news(self) -> None:
        wanted = _Wanted(self._rollout_id, self._view, self._shown, self._news())
        self._has_news = self._has_all_changed = False
        self._changed.clear()
        update = await _read(wanted, self._news_at)
        if wanted.view == self._view:
            self._shown = update.shown
        self._unseen.append(_Unseen(update.token, time.monotonic()))
        await self.send(update.text)

    def _news(self) -> frozenset[int]:
        """Which of the shown tasks changed; with a key that is none of them, others may stand there."""
        if self._shown is None:
            return frozenset()
        return frozenset({0, *self._shown} if self._has_all_changed else self._changed)


async def refuse_unknown(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """An address where nothing is live: refused as a rollout that does not exist, and without Redis."""
    await receive()
    await send({"type": "websocket.close", "code": UNKNOWN})


def _may_watch(user: User) -> bool:
    return user.is_active and user.is_staff and user.has_perm("ota.view_rollout")


async def _read(wanted: _Wanted, news_at: float) -> _Update:
    """Browsers that want the same share what is read, if the reading began after their news."""
    now = time.monotonic()
    readings = _readings.setdefault(asyncio.get_running_loop(), {})
    for key in [key for key, reading in readings.items() if now - reading.started_at > BEAT]:
        del readings[key]
    reading = readings.get(wanted)
    if reading is None or reading.started_at < news_at:
        task = asyncio.create_task(database_sync_to_async(_update)(wanted))
        reading = readings[wanted] = _Reading(now, task)
    # The others still want it when the browser that asked first has left.
    return await asyncio.shield(reading.update)


def _update(wanted: _Wanted) -> _Update:
    rollout_id, view, shown, changed = wanted
    if shown is None:
        state = rows.full(rollout_id, view)
    else:
        state = rows.changes(rollout_id, view, shown, changed)
    token = secrets.token_urlsafe(9)
    return _Update(json.dumps(state.document | {"token": token}), token, state.shown)
