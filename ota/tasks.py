"""What the clock and the workers do for upgrades.

The database is the queue: each of these may run twice, late or never, and the next tick puts it
right.
"""

import datetime as dt
import fcntl
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import redis
from celery import shared_task
from celery.signals import worker_shutting_down
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.lock import Lock
from redis.retry import Retry

from ota import checks, notices, rollouts, steadiness, uploads
from ota.upgrades import folding, limits, proof
from ota.upgrades import issue as issuing

logger = logging.getLogger(__name__)

CHUNK = 500  # a chunk costs about twenty statements, whatever its size
# A tick takes a fraction of a second; of one whose worker was killed the next one waits so long.
LEASE = 15.0  # s

# Set in a worker's first process, and seen by those that it has forked for the tasks.
_is_ending: Any = RawValue("b", 0)


@worker_shutting_down.connect
def _end(**_: object) -> None:
    """A worker waits for its tasks before it ends, and reading a package may take minutes."""
    _is_ending.value = 1


def _is_stopping() -> bool:
    return bool(_is_ending.value)


@shared_task
def advance() -> None:
    """One tick, unless another one is under way."""
    with _lease() as is_ours:
        ready = tick(timezone.now()) if is_ours else []
    for start in range(0, len(ready), CHUNK):
        issue.delay(ready[start : start + CHUNK])


def tick(now: dt.datetime) -> list[int]:
    """Proofs, limits of time, waves and ends; returns the tasks that may be sent now."""
    proof.confirm_quiet(now)
    if not steadiness.is_steady(now):
        return []
    limits.enforce(now)
    rollouts.advance(now)
    issuing.look_again(now)
    return issuing.due(now)


@shared_task
def gather() -> None:
    """Lets devices join what stays open, and starts what the system may start by itself."""
    now = timezone.now()
    if steadiness.is_steady(now):
        rollouts.join(now)
        rollouts.consistency.start(now)


@shared_task
def issue(pks: Sequence[int]) -> None:
    """Sends the commands of a chunk of tasks."""
    now = timezone.now()
    if steadiness.is_steady(now):
        issuing.issue(pks, now)


@contextmanager
def _lease() -> Iterator[bool]:
    """Whether this tick may run. Two at once cost time and do no harm, so without Redis each may."""
    lock = _redis(settings.REDIS_URL).lock("ota.advance", LEASE)
    try:
        is_ours = lock.acquire(blocking=False)
    except redis.RedisError as error:
        logger.warning("ticks run without their lock: %s", error)
        yield True
        return
    try:
        yield is_ours
    finally:
        if is_ours:
            _give_back(lock)


@functools.cache
def _redis(url: str) -> redis.Redis:
    """Asks once and does not wait long: a tick that is late does more harm than two at once."""
    once = Retry(NoBackoff(), retries=0)
    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=once)


def _give_back(lock: Lock) -> None:
    try:
        lock.release()
    except redis.RedisError as error:  # it took longer than the lease, or Redis went away
        logger.warning("a tick's lock was not its own any more: %s", error)


def _while_steady(work: Callable[[dt.datetime], object]) -> None:
    """What is put off or removed by the time of a clock that has jumped does not come back."""
    now = timezone.now()
    if steadiness.is_steady(now):
        work(now)


@shared_task
def tell() -> None:
    """Makes notices and deliveries of what happened."""
    _while_steady(notices.tell)


@shared_task
def tell_standstill() -> None:
    """Says which rollouts have stood still for a day, and why."""
    _while_steady(rollouts.standstill.tell)


@shared_task
def mail() -> None:
    """Sends the e-mails that are due."""
    _while_steady(lambda now: notices.send(now, _is_stopping))


@shared_task
def deliver() -> None:
    """Sends to the webhooks what is due."""
    from ota.notices import webhooks  # only here: see ota/notices/__init__.py

    _while_steady(lambda now: webhooks.deliver(now, _is_stopping))


@shared_task
def forget_news() -> None:
    """Removes old news and deliveries."""
    _while_steady(notices.forget)


@shared_task
def fold_history() -> None:
    """Adds up progress reports that are old; some steps at a time."""
    _while_steady(_fold)


def _fold(now: dt.datetime) -> None:
    if folded := folding.fold(now, _is_stopping):
        logger.info("%d old progress reports were folded", folded)


@shared_task
def expire_uploads() -> None:
    """Forgets uploads that nobody went on with."""
    _while_steady(_expire)


def _expire(now: dt.datetime) -> None:
    for upload in uploads.expire(now):
        logger.info("upload of %s by %s has expired", upload.file_name, upload.user_id)


@shared_task
def check_packages() -> None:
    """Reads the bytes of a package that is due, and asks for the next one."""
    with _alone_here() as is_alone:
        if not is_alone or not checks.check(timezone.now(), _is_stopping):
            return
    if not _is_stopping():
        check_packages.delay()


@contextmanager
def _alone_here() -> Iterator[bool]:
    """Whether nobody else on this machine reads a package; the other slots are for the docks.

    The lock ends with its process, however that ends.
    """
    file = os.open(_lock(), os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(file)


def _lock() -> Path:
    """A file for each database: installations on one machine do not wait for each other."""
    database = settings.DATABASES["default"]
    place = "|".join(str(database.get(key, "")) for key in ("HOST", "PORT", "NAME"))
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"fleet-ota-{os.geteuid()}-{name}.lock")
