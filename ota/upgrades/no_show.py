"""Docks that accepted the command and do not come for the package: a flag, not an end."""

import datetime as dt
from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from database import bulk
from ota import downloads, live
from ota.models import TaskEvent, UpgradeTask
from ota.states import TaskStatus

CAME = "the dock has come for the package after all"

# What we know of a dock, and what it reports or does not, while it has not begun to download.
_NOT_BEGUN = (
    Q(downloads=None) & (Q(percent=None) | Q(percent=0)) & Q(step__in=["", "download_firmware"])
)


def flag(now: dt.datetime) -> None:
    """Flags the tasks whose dock should have come by now, and takes it back from those that have."""
    in_flight = UpgradeTask.objects.filter(status__in=[TaskStatus.SENT, TaskStatus.IN_PROGRESS])
    in_flight = in_flight.only("rollout_id")
    _note(in_flight.exclude(no_show_at=None).exclude(_NOT_BEGUN), CAME, None, now)
    if downloads.is_seen():
        since = now - dt.timedelta(seconds=settings.FIRMWARE_NO_SHOW)
        late = in_flight.filter(_NOT_BEGUN, no_show_at=None, replied_at__lt=since)
        _note(late, downloads.absence(), now, now)


def _note(
    found: Iterable[UpgradeTask], text: str, no_show_at: dt.datetime | None, now: dt.datetime
) -> None:
    tasks = list(found)
    if not tasks:
        return
    with transaction.atomic():
        UpgradeTask.objects.filter(pk__in=[task.pk for task in tasks]).update(no_show_at=no_show_at)
        line = {"kind": TaskEvent.Kind.NOTE, "at": now, "text": text[:500]}
        bulk.insert(TaskEvent(task=task, **line) for task in tasks)
        live.announce((task.rollout_id, task.pk) for task in tasks)
