"""What the clock and the workers do for upgrades.

The database is the queue: each of these may run twice, late or never, and the next tick puts it
right.
"""

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.conf import settings
from django.utils import timezone

from ota import checks, rollouts, uploads
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue as issuing
from ota.upgrades import limits, proof

logger = logging.getLogger(__name__)

CHUNK = 100

# Set in a worker's first process, and seen by those that it has forked for the tasks.
_is_ending: Any = RawValue("b", 0)


@worker_shutting_down.connect
def _end(**_: object) -> None:
    """A worker waits for its tasks before it ends, and reading a package may take minutes."""
    _is_ending.value = 1


@shared_task
def advance() -> None:
    """One tick: proofs, limits of time, what may go now, what is finished."""
    now = timezone.now()
    proof.confirm(UpgradeTask.objects.filter(status=TaskStatus.VERIFYING), now)
    limits.enforce(now)
    issuing.look_again(now)
    ready = issuing.due(now)
    for start in range(0, len(ready), CHUNK):
        issue.delay(ready[start : start + CHUNK])
    rollouts.finish(now)


@shared_task
def issue(pks: Sequence[int]) -> None:
    """Sends the commands of a chunk of tasks."""
    issuing.issue(pks, timezone.now())


@shared_task
def expire_uploads() -> None:
    """Forgets uploads that nobody went on with."""
    for upload in uploads.expire(timezone.now()):
        logger.info("upload of %s by %s has expired", upload.file_name, upload.user_id)


@shared_task
def check_packages() -> None:
    """Reads the bytes of a package that is due, and asks for the next one."""
    with _alone_here() as is_alone:
        if not is_alone or not checks.check(timezone.now(), lambda: bool(_is_ending.value)):
            return
    if not _is_ending.value:
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
