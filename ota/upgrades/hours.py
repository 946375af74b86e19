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
from ota.moments import moment
from ota.needs import Reason


class Outlook(NamedTuple):
    """Whether a command may go now, and when the hours open next for long enough (None: never)."""

    is_open: bool
    opens: dt.datetime | None


def overdue(rollout: Rollout, now: dt.datetime) -> str:
    """Why nothing of a rollout may be sent any more, in words; empty before its deadline."""
    if rollout.deadline_at is None or rollout.deadline_at > now:
        return ""
    return f"not sent by the deadline, {moment(rollout.deadline_at)}"


def closed(policy: Policy, dock: Device, now: dt.datetime) -> Reason | None:
    """Why a policy's hours do not let a command to a dock go now; None if they do.

    They have to last as long as the upgrade is expected to take. Time clears only what begins
    again; for the rest somebody has to do something.
    """
    zone = _zone(dock.site)
    if zone is None:
        text = f"the time zone of site {dock.site} is not known: correct it"
        return Reason("no_hours", text)
    outlook = _outlook(policy.windows, zone, policy.expected_minutes, now)
    if outlook.is_open:
        return None
    if outlook.opens is None:
        return Reason("no_hours", "the rollout's hours are never long enough")
    return Reason("hours", f"the rollout's hours begin again on {shown(dock, outlook.opens)}")


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


def begins(policy: Policy, dock: Device, start: dt.datetime) -> dt.datetime | None:
    """When a command to a dock may go from a moment on; None if the hours never let it."""
    if (zone := _zone(dock.site)) is None:
        return None
    outlook = _outlook(policy.windows, zone, policy.expected_minutes, start)
    return start if outlook.is_open else outlook.opens


def opening(task: UpgradeTask, now: dt.datetime) -> dt.datetime | None:
    """When the hours open next for long enough; None if they never do, or are open."""
    if (zone := _zone(task.gateway.site)) is None:
        return None
    return _outlook(task.rollout.windows, zone, task.rollout.expected_minutes, now).opens


def clock(dock: Device) -> str:
    """The name of the time zone that a dock's hours follow, whether it is known or not."""
    return _clock(dock.site)


def _clock(site: Site | None) -> str:
    return site.time_zone if site else settings.TIME_ZONE


def _zone(site: Site | None) -> zoneinfo.ZoneInfo | None:
    """The site's time zone, or the installation's where a dock stands nowhere; None if it is unknown."""
    try:
        return zoneinfo.ZoneInfo(_clock(site))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def shown(dock: Device, at: dt.datetime) -> str:
    """A moment on the clock of a dock's site, with its zone."""
    return f"{at.astimezone(_zone(dock.site) or dt.UTC):%a %Y-%m-%d %H:%M %Z}"


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
