"""Hours in which commands may be issued: by weekday, on the clock that hangs on the site's wall.

Written as ``Mon-Fri 22:00-05:00, Sat 00:00-24:00``. A window whose end is not after its start ends
on the next day and belongs to the day on which it starts. When the clocks change, what the clock on the wall
shows decides: an hour that is skipped is in no window, an hour that comes twice is in it twice.
"""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FORM = "such as 'Mon-Fri 22:00-05:00, Sat 00:00-24:00'"
DAY = 24 * 60  # minutes
MOST = 50
# A week, and the day on which a window of its last day ends.
_HORIZON = 9

_WINDOW = re.compile(
    r"([A-Za-z]{3}(?:-[A-Za-z]{3})?|daily)\s+(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII
)


class InvalidWindows(ValueError):
    """A text that names no hours; the message says which part and what is expected."""


class Window(NamedTuple):
    """On these weekdays (Monday is 0) from ``start`` to ``end``, minutes of the day; ``end`` may be past midnight."""

    days: frozenset[int]
    start: int
    end: int


class Moment(NamedTuple):
    """How the hours stand: open until ``until``, or closed until then; None where that is for ever."""

    is_open: bool
    until: dt.datetime | None


def parse(text: str) -> tuple[Window, ...]:
    """The windows of a text; none where it is empty, which means at any time.

    Raises:
        InvalidWindows: a part of it is no window.
    """
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if len(parts) > MOST:
        raise InvalidWindows(f"{len(parts)} windows; at most {MOST} are taken")
    return tuple(_window(part) for part in parts)


def _window(text: str) -> Window:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise InvalidWindows(f"{text!r} is no window; expected {FORM}")
    start, end = _minutes(text, *match.group(2, 3)), _minutes(text, *match.group(4, 5))
    if start in {DAY, end}:
        raise InvalidWindows(f"{text!r} never opens; expected {FORM}")
    return Window(_days(text, match[1]), start, end if end > start else end + DAY)


def _minutes(text: str, hours: str, minutes: str) -> int:
    found = int(hours) * 60 + int(minutes)
    if found > DAY or int(minutes) > 59:
        raise InvalidWindows(f"{text!r} has a time that is none; expected {FORM}")
    return found


def _days(text: str, words: str) -> frozenset[int]:
    if words.lower() == "daily":
        return frozenset(range(7))
    first, _, last = words.title().partition("-")
    if first not in DAYS or (last or first) not in DAYS:
        raise InvalidWindows(f"{text!r} has a day that is none; expected {FORM}")
    start, length = DAYS.index(first), (DAYS.index(last or first) - DAYS.index(first)) % 7
    return frozenset((start + step) % 7 for step in range(length + 1))


def at(windows: Sequence[Window], zone: ZoneInfo, now: dt.datetime) -> Moment:
    """Whether the hours are open at an instant, and when that changes."""
    if not windows:
        return Moment(True, None)
    is_open = _is_inside(windows, now.astimezone(zone))
    for instant in _changes(windows, zone, now):
        if _is_inside(windows, instant.astimezone(zone)) != is_open:
            return Moment(is_open, instant)
    return Moment(is_open, None)


def longest(windows: Sequence[Window]) -> int:
    """Minutes of the longest time in a row that is open, in a week without a change of the clocks."""
    week = 7 * DAY
    is_open = [False] * week
    for window in windows:
        for day in window.days:
            for minute in range(window.start, window.end):
                is_open[(day * DAY + minute) % week] = True
    if all(is_open):
        return week
    runs = "".join("x" if each else " " for each in is_open * 2).split()
    return max(map(len, runs), default=0)


def _is_inside(windows: Iterable[Window], wall: dt.datetime) -> bool:
    minute, day = wall.hour * 60 + wall.minute, wall.weekday()
    return any(
        (day in window.days and window.start <= minute < window.end)
        or ((day - 1) % 7 in window.days and minute + DAY < window.end)
        for window in windows
    )


def _changes(windows: Sequence[Window], zone: ZoneInfo, now: dt.datetime) -> list[dt.datetime]:
    """All instants after now at which what the wall's clock shows may enter or leave a window."""
    today = now.astimezone(zone).date()
    found = set()
    for number in range(-1, _HORIZON):
        day = today + dt.timedelta(days=number)
        for window in windows:
            if day.weekday() in window.days:
                found |= _instants(day, window.start, zone) | _instants(day, window.end, zone)
        found |= _clock_change(day, zone)
    return sorted(instant for instant in found if instant > now)


def _instants(day: dt.date, minute: int, zone: ZoneInfo) -> set[dt.datetime]:
    """When the wall's clock shows a minute of a day: once, twice, or (skipped) thereabouts."""
    wall = dt.datetime.combine(day, dt.time()) + dt.timedelta(minutes=minute)
    return {wall.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1)}


def _clock_change(day: dt.date, zone: ZoneInfo) -> set[dt.datetime]:
    """The instant of the day at which the clocks change, if they do."""
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    low, high = 0, DAY
    if _offset(start, low, zone) == _offset(start, high, zone):
        return set()
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(start, middle, zone) == _offset(start, low, zone):
            low = middle
        else:
            high = middle
    return {start + dt.timedelta(minutes=high)}


def _offset(start: dt.datetime, minutes: int, zone: ZoneInfo) -> dt.timedelta | None:
    return (start + dt.timedelta(minutes=minutes)).astimezone(zone).utcoffset()
