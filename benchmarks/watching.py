"""Browsers for the benchmark of live pages: cheap ones that answer, in a process of their own."""

import asyncio
import re
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from websockets.asyncio.client import ClientConnection, connect

_TOKEN = re.compile(r'"token": "([^"]+)"')
# The peer's channel group.
GROUP = "each"
# Every so many browsers read what they are sent; the others look for the token alone.
READERS = 20


class Seen(NamedTuple):
    """What one browser got: frames, and for each row of a change how old it was, in seconds."""

    frames: int
    ages: list[float]


class Plan(NamedTuple):
    """What to watch, as whom, how often at once and for how long; the file ``ready`` tells when all do."""

    address: str
    headers: dict[str, str]
    browsers: int
    seconds: float
    ready: Path


def watch(plan: Plan) -> list[Seen]:
    return asyncio.run(_watch(plan))


async def _watch(plan: Plan) -> list[Seen]:
    all_in = asyncio.Barrier(plan.browsers)
    async with asyncio.TaskGroup() as group:
        found = [
            group.create_task(_browser(plan, all_in, is_reader=not number % READERS))
            for number in range(plan.browsers)
        ]
    return [one.result() for one in found]


async def _browser(plan: Plan, all_in: asyncio.Barrier, *, is_reader: bool) -> Seen:
    seen, seconds = Seen(0, []), plan.seconds
    async with connect(plan.address, additional_headers=plan.headers, open_timeout=120) as line:
        await _take(line, seen, is_reader=False)  # the full page comes when it is ready
        await all_in.wait()
        plan.ready.touch()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    seen = await _take(line, seen, is_reader=is_reader)
            except TimeoutError:
                break
    return seen


async def _take(line: ClientConnection, seen: Seen, *, is_reader: bool) -> Seen:
    text, now = str(await line.recv()), time.time()
    if found := _TOKEN.search(text, max(len(text) - 100, 0)):
        await line.send(f'{{"seen": "{found[1]}"}}')
    if is_reader:
        rows = msgspec.json.decode(text).get("tasks", [])
        seen.ages.extend(now - row["rate"] / 1000 for row in rows if row.get("rate"))
    return seen._replace(frames=seen.frames + 1)
