"""Ends tasks for certain."""

import asyncio
from collections.abc import Iterable

_PAUSE = 0.2


async def end(tasks: Iterable[asyncio.Task[None]], patience: float = 15.0) -> int:
    """Cancel `tasks` and wait until they are over; return how many are not after `patience` (real seconds).

    A cancellation can get lost where an error ends a task group at the same moment, so it is repeated.
    """
    pending = set(tasks)
    deadline = asyncio.get_running_loop().time() + patience
    while pending and asyncio.get_running_loop().time() < deadline:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_PAUSE)
    return len(pending)
