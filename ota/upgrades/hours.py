"""Whether a rollout's hours allow a command now, on the clock of the dock's site."""

import datetime as dt
import functools
import zoneinfo
from collections.abc import Iterable
from typing import NamedTuple

from django.conf import settings

from fleet.models import Device, Site
from ota import windows
from ota.models import Policy, Rollout, UpgradeTask


class Outlook(NamedTuple):
    """Whether a command may go now, and when the hours open next for long enough (None: never)."""

    is_open: bool
    opens: dt.datetime | None


def overdue(rollout: Rollout, now: dt.datetime) -> str:
    """Why nothing of a rollout may be sent any more, in words; empty before its deadline."""
    if rollout.deadline_at is None or rollout.deadline_at > now:
        return ""
    return f"not sent by the deadline, {rollout.deadline_at:%Y-%m-%d %H:%M %Z}"


def closed(task: UpgradeTask, now: dt.datetime) -> str:
    """Why the hours do not allow the command now, in words; empty if they do.

    They have to last as long as the upgrade is expected to take.
    """
    zone = zone_of(task)
    if zone is None:
        return f"the time zone of site {task.gateway.site} is not known: correct it"
    outlook = _outlook(task.rollout.windows, zone, task.rollout.expected_minutes, now)
    if outlook.is_open:
        return ""
    if outlook.opens is None:
        return "the rollout's hours are never long enough"
    return f"the rollout's hours begin again on {shown(task, outlook.opens)}"


def is_open(policy: Policy, dock: Device, now: dt.datetime) -> bool:
    """Whether a policy's hours let a command to a dock go now."""
    zone = _zone(dock.site)
    return zone is not None and _outlook(policy.windows, zone, policy.expected_minutes, now).is_open


def open_in_time(
    policy: Policy, sites: Iterable[Site | None], start: dt.datetime, end: dt.datetime
) -> bool:
    """Whether a policy's hours let a command go at any of the sites between two moments.

    Also where the zone of none is known: that is told elsewhere.
    """
    zones = {zone for zone in map(_zone, sites) if zone}
    looks = [_outlook(policy.windows, zone, policy.expected_minutes, start) for zone in zones]
    return not looks or any(look.is_open or (look.opens or end) < end for look in looks)


def opening(task: UpgradeTask, now: dt.datetime) -> dt.datetime | None:
    """When the hours open next for long enough; None if they never do, or are open."""
    if (zone := zone_of(task)) is None:
        return None
    return _outlook(task.rollout.windows, zone, task.rollout.expected_minutes, now).opens


def zone_of(task: UpgradeTask) -> zoneinfo.ZoneInfo | None:
    """The site's time zone, or the installation's where a dock stands nowhere; None if it is unknown."""
    return _zone(task.gateway.site)


def clock(dock: Device) -> str:
    """The name of the time zone that a dock's hours follow, whether it is known or not."""
    return _clock(dock.site)


def _clock(site: Site | None) -> str:
    return site.time_zone if site else settings.TIME_ZONE


def _zone(site: Site | None) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(_clock(site))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def shown(task: UpgradeTask, at: dt.datetime) -> str:
    """A moment on the site's clock, with its zone."""
    return f"{at.astimezone(zone_of(task) or dt.UTC):%a %Y-%m-%d %H:%M %Z}"


# Thousands of tasks of one rollout ask the same question in the same tick.
@functools.lru_cache(maxsize=512)
def _outlook(text: str, zone: zoneinfo.ZoneInfo, minutes: int, now: dt.datetime) -> Outlook:
    hours, needed = windows.parse(text), dt.timedelta(minutes=minutes)
    moment, start = windows.at(hours, zone, now), now
    # After some days every window has been seen.
    while moment.until and moment.until - now < dt.timedelta(days=9):
        if moment.is_open and moment.until - start >= needed:
            break
        start = moment.until
        moment = windows.at(hours, zone, start)
    if not moment.is_open:
        return Outlook(False, None)
    return Outlook(True, None) if start == now else Outlook(False, start)
