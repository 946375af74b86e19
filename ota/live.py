"""Tells browsers which tasks changed: gathered for a quarter of a second, after the commit.

Sending is done by one thread with one event loop a process; a message through a fresh loop costs
three milliseconds. Rows are not sent, only their keys: a browser asks for what it shows.
"""

import asyncio
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

EVERY = 0.25  # s
# Consoles send to their browsers on a beat of the same length, and on one machine all have one clock:
# what goes out shortly before it need not wait for the next one.
AHEAD = 0.06  # s
RETRY_AFTER = 2.0  # s, while Redis does not answer
# Of more tasks than this at once no keys are told: "whatever you show". A message stays under 20 KB.
MOST = 2000

_lock = threading.Lock()
_changed: defaultdict[int, set[int]] = defaultdict(set)
_wake = threading.Event()
_owner = 0


def group(rollout_id: int) -> str:
    """The channel group of a rollout's browsers."""
    return f"rollout.{rollout_id}"


def announce(tasks: Iterable[tuple[int, int]]) -> None:
    """Tells, once the transaction has committed, that tasks changed; ``(rollout id, task id)``."""
    pairs = list(tasks)
    if pairs:
        # Robust: what has committed must not be done again because nobody could be told.
        transaction.on_commit(lambda: _gather(pairs), robust=True)


def _gather(pairs: Iterable[tuple[int, int]]) -> None:
    with _lock:
        for rollout_id, task_id in pairs:
            _changed[rollout_id].add(task_id)
    _start()
    _wake.set()


def _start() -> None:
    """Starts this process's sender; a forked process needs its own."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        threading.Thread(target=_send_for_ever, name="live", daemon=True).start()


def _send_for_ever() -> None:
    """Waits in the thread and not in the loop: a loop's waiting threads outlive the process's end."""
    loop, said = asyncio.new_event_loop(), ""
    while True:
        _wake.wait()
        time.sleep(EVERY - (time.monotonic() + AHEAD) % EVERY)
        _wake.clear()
        failure = loop.run_until_complete(_send())
        if failure and failure != said:  # said once, however long it lasts
            logger.warning("live updates wait: %s", failure)
        said = failure
        if failure:
            time.sleep(RETRY_AFTER)
            _wake.set()


async def _send() -> str:
    """Sends what is gathered; keeps what could not be sent and tells why, else nothing."""
    with _lock:
        taken = dict(_changed)
        _changed.clear()
    layer: Any = get_channel_layer()
    try:
        for rollout_id in list(taken):
            ids = taken[rollout_id]
            message = {"type": "tasks.changed", "ids": sorted(ids) if len(ids) <= MOST else None}
            await layer.group_send(group(rollout_id), message)
            del taken[rollout_id]
    except Exception as error:  # noqa: BLE001  # whatever Redis or the layer raises: try again
        with _lock:
            for rollout_id, ids in taken.items():
                _changed[rollout_id] |= ids
        return type(error).__name__
    return ""
