"""Whether the wall clock can be trusted now: a clock that jumps starts and stops nothing wrongly.

Beside the wall clock a machine has one that only counts up and that nobody sets. Where both do not
advance alike, the wall clock was set. Then nothing is issued, and no limit of time, deadline, wave or stop is
judged, until it has been steady for a minute; a clock that is put right within that minute has done nothing. The
stored times of what is under way are moved by the jump, so that five minutes ago stays five minutes ago. What an
operator gave as a time of day (start, deadline, hours) is not: from then on the new time holds.

Limits: a jump while nobody ticks (everything stopped, or the machine off) cannot be told from time that
passed. Clocks that are wrong but steady are believed. Machines are expected to agree to
within seconds, as with NTP: the rows of all are moved when the clock of the one that ticks jumps.
"""

import datetime as dt
import logging
import socket
import time
from pathlib import Path

from django.db import models, transaction
from django.db.models import F

from fleet.models import Device
from mqtt_bridge.models import BridgeSession
from ota.models import Clock, ForeignUpgrade, Rollout, UpgradeTask, Wave
from ota.states import OPEN, UNFINISHED

logger = logging.getLogger(__name__)

# Less than this matters to nothing here, and is gathered until it does.
TOLERANCE = 5.0  # s
STEADY = dt.timedelta(minutes=1)

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def is_steady(now: dt.datetime) -> bool:
    """Whether what the clock says may be acted on; moves stored times if it has jumped."""
    offset = now.timestamp() - counted()
    clock, _ = Clock.objects.get_or_create(machine=_machine(), defaults={"offset": offset})
    step = offset - clock.offset
    if abs(step) > TOLERANCE:
        _follow(clock, dt.timedelta(seconds=step), offset, now)
        return False
    return clock.stepped_at is None or now - clock.stepped_at >= STEADY


def counted() -> float:
    """Seconds on the clock that only counts up; all processes of a machine share it."""
    return time.monotonic()


def _machine() -> str:
    """This machine since its last start, whatever containers run on it; where that has no name, its host name."""
    return _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()


def _follow(clock: Clock, step: dt.timedelta, offset: float, now: dt.datetime) -> None:
    """Of several that notice a jump one moves the times."""
    with transaction.atomic():
        list(
            Clock.objects.order_by("pk").select_for_update()
        )  # of all machines, one after the other
        unmoved = Clock.objects.filter(pk=clock.pk, offset=clock.offset)
        if unmoved.update(offset=offset, stepped_at=now, step=step.total_seconds()):
            logger.warning("the clock jumped by %s; nothing is judged for %s", step, STEADY)
            move(step, now, is_first=not _was_followed(clock, step, now))


def _was_followed(clock: Clock, step: dt.timedelta, now: dt.datetime) -> bool:
    """Whether another machine's clock has just made the same jump, as when both are corrected."""
    others = Clock.objects.exclude(pk=clock.pk).filter(
        stepped_at__range=(now - STEADY, now + STEADY)
    )
    return any(abs(other.step - step.total_seconds()) <= TOLERANCE for other in others)


def move(step: dt.timedelta, now: dt.datetime, *, is_first: bool = True) -> None:
    """Moves the stored times of what is under way by a jump of the clock that ended at ``now``.

    Only those are moved that were written before it: after a jump back they lie in the future, after a
    jump forward longer ago than the jump. Pauses lie ahead in any case, and which failures count is a
    matter of order: the first machine whose clock makes a jump moves these.
    """
    tasks = UpgradeTask.objects.filter(status__in=OPEN)
    moved: list[tuple[models.QuerySet[models.Model], tuple[str, ...]]] = [
        (tasks, ("sent_at", "replied_at", "progress_seen_at", "status_at")),
        (Wave.objects.filter(rollout__status__in=UNFINISHED), ("met_at",)),
        (ForeignUpgrade.objects.filter(finished_at=None), ("last_seen_at",)),
        (Device.objects.all(), ("last_seen_at", "online_since", *_SEEN)),
        (BridgeSession.objects.all(), ("connected_since", "seen_at")),
    ]
    for rows, columns in moved:
        for column in columns:
            old = (
                {f"{column}__gt": now} if step < dt.timedelta() else {f"{column}__lte": now - step}
            )
            rows.filter(**old).update(**{column: F(column) + step})
    if is_first:
        tasks.filter(not_before__isnull=False).update(not_before=F("not_before") + step)
        going = Rollout.objects.filter(status__in=UNFINISHED)
        ended = UpgradeTask.objects.filter(rollout__in=going, finished_at__isnull=False)
        ended.update(finished_at=F("finished_at") + step)
        going.update(judged_from=F("judged_from") + step)
    tasks.update(checked_at=None, due_at=None)


_SEEN = ("firmware_seen_at", "compatible_seen_at", "upgrading_seen_at", "topology_seen_at")
