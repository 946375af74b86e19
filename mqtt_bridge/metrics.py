"""Figures that several processes count together, kept in Redis and shown on ``/metrics``.

Counting costs an addition in memory; a thread carries the sums over every second. While Redis
is away they are kept and carried over later.
"""

import atexit
import collections
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import redis
from django.conf import settings

logger = logging.getLogger(__name__)

HASH = "fleet-ota:metrics"
EVERY = 1.0  # s
BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """A sum: its name, its labels and its value."""

    name: str
    labels: dict[str, str]
    value: float


_sums: collections.Counter[tuple[str, Labels]] = collections.Counter()
_lock = threading.Lock()
_owner = 0


def count(name: str, amount: float = 1, **labels: str) -> None:
    """Adds to a sum."""
    key = (name, tuple(sorted(labels.items())))
    with _lock:
        _sums[key] += amount  # type: ignore[assignment]
    _start()


def observe(name: str, value: float, times: int = 1, **labels: str) -> None:
    """Adds a value that was seen so many times to a histogram (seconds, or a size).

    Prometheus' buckets are cumulative: a value is in each that is large enough.
    """
    for bound in BUCKETS:
        if value <= bound:
            count(f"{name}_bucket", times, le=f"{bound:g}", **labels)
    count(f"{name}_bucket", times, le="+Inf", **labels)
    count(f"{name}_sum", value * times, **labels)
    count(f"{name}_count", times, **labels)


def read() -> Iterator[Sample]:
    """All sums of all processes.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    stored: dict[bytes, bytes] = _redis().hgetall(HASH)  # type: ignore[assignment]
    for key, value in sorted(stored.items()):
        name, labels = json.loads(key)
        yield Sample(name, dict(labels), float(value))


def flush() -> None:
    """Carries this process's sums over to Redis; keeps them if it does not answer."""
    with _lock:
        taken = dict(_sums)
        _sums.clear()
    if not taken:
        return
    try:
        pipeline = _redis().pipeline(transaction=False)
        for key, value in taken.items():
            pipeline.hincrbyfloat(HASH, json.dumps(key), value)
        pipeline.execute()
    except redis.RedisError as error:
        logger.debug("figures wait for Redis: %s", error)
        with _lock:
            _sums.update(taken)


def _redis() -> "redis.Redis":
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def _start() -> None:
    """Starts this process's carrier; a forked process needs its own."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        threading.Thread(target=_carry, name="metrics", daemon=True).start()
        atexit.register(flush)


def _carry() -> None:
    while True:
        time.sleep(EVERY)
        flush()
