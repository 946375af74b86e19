"""What docks fetch from us, added up by task and package; and those that never come for it."""

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from console.counts import count
from console.sizes import shown_size
from database import bulk
from ota import storage
from ota.models import Download, FirmwarePackage, UpgradeTarget

# How long after its last byte a download counts as one that moves.
MOVES_FOR = dt.timedelta(seconds=15)


class Change(NamedTuple):
    """What came to a task's download of a package; ``last_offset`` None where no answer had bytes.

    Rates are bytes a second.
    """

    task_id: int
    package_id: int
    requests: int
    bytes_served: int
    last_offset: int | None
    rate: int | None
    first_at: dt.datetime
    last_at: dt.datetime


@transaction.atomic  # all or nothing: what could not be written is added once more later
def record(changes: Iterable[Change]) -> list[tuple[int, int]]:
    """Adds the changes to what is known; three statements at most, whatever their number.

    Returns the tasks as ``(rollout id, task id)``. A task that is gone is passed by.
    """
    wanted = {(change.task_id, change.package_id): change for change in changes}
    targets = UpgradeTarget.objects.filter(
        task__in={task for task, _ in wanted}, package__in={package for _, package in wanted}
    )
    known = targets.order_by().values_list("task_id", "package_id", "task__rollout_id").distinct()
    found = {(task, package): rollout for task, package, rollout in known}
    # In one order everywhere, so that two writers wait for each other instead of deadlocking.
    rows = [wanted[key] for key in sorted(wanted) if key in found]
    _add_up([row for row in rows if row.last_offset is not None], ["last_offset"])
    _add_up([row._replace(last_offset=0) for row in rows if row.last_offset is None], [])
    return sorted({(found[row.task_id, row.package_id], row.task_id) for row in rows})


def _add_up(changes: list[Change], latest: list[str]) -> None:
    bulk.add_up(
        [Download(**change._asdict()) for change in changes],
        unique=["task", "package"],
        sums=["requests", "bytes_served"],
        latest=["rate", "last_at", *latest],
    )


def is_seen() -> bool:
    """Whether docks come to us for a package, or fetch it elsewhere without our knowing."""
    return storage.is_folder() or settings.FIRMWARE_S3_REDIRECT


def absence() -> str:
    """What is wrong with a dock that accepted the command and does not come, and what to check."""
    seconds = settings.FIRMWARE_NO_SHOW
    waited = f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
    return (
        f"the dock accepted the command more than {waited} ago and has not come for the package: "
        f"check that it reaches FIRMWARE_URL ({settings.FIRMWARE_URL})"
    )


def percent(download: Download) -> int:
    """How far the last answer has come; 100 only with the last byte."""
    size = max(1, download.package.size)
    return 100 * min(download.last_offset, size) // size


def in_words(package: FirmwarePackage, download: Download | None, now: dt.datetime) -> str:
    """How far a dock has come with a package."""
    if download is None:
        if is_seen():
            return "The dock has not come for it."
        return "The dock fetches it from the bucket itself; that is not seen here."
    size = package.size
    reached = shown_size(min(download.last_offset, size))
    rate = download.rate if now - download.last_at < MOVES_FOR else None
    parts = [
        f"{_verb()} {reached} of {shown_size(size)} ({percent(download)} %)",
        f"at {shown_size(rate)}/s" if rate else "",
        count(download.requests, "request"),
        f"{shown_size(download.bytes_served)} in all",
    ]
    return ", ".join(part for part in parts if part)


def _verb() -> str:
    """What others send for us is known only as it was asked for."""
    is_ours = storage.is_folder() and not settings.FIRMWARE_ACCEL_PREFIX
    return "downloaded" if is_ours else "asked for"
