"""Hours of the week on a site's clock, beside the C library's own idea of that clock."""

import datetime as dt
import time
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota import windows
from ota.windows import InvalidWindows, Window

ZURICH = ZoneInfo("Europe/Zurich")
# Clocks that change in the north and in the south, by half an hour, at midnight, or never.
ZONES = [
    "UTC", "Europe/Zurich", "America/New_York", "America/St_Johns", "America/Santiago",
    "Australia/Lord_Howe", "Pacific/Chatham", "Asia/Kathmandu", "Africa/Casablanca", "Asia/Beirut",
]  # fmt: skip
HOURS = "Mon-Fri 22:00-05:00, Sat 00:15-02:30, Sun 02:15-03:30, Sun 23:30-00:30"
YEAR = 365 * windows.DAY


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def at(text: str, instant: str, zone: ZoneInfo = ZURICH) -> windows.Moment:
    return windows.at(windows.parse(text), zone, utc(instant))


# What is written


@pytest.mark.parametrize(
    ("text", "days", "start", "end"),
    [
        ("Mon 08:00-12:30", {0}, 480, 750),
        ("fri-mon 22:00-05:00", {4, 5, 6, 0}, 1320, 1740),
        ("daily 00:00-24:00", set(range(7)), 0, 1440),
    ],
)
def test_a_window_is_read(text: str, days: set[int], start: int, end: int) -> None:
    assert windows.parse(text) == (Window(frozenset(days), start, end),)


def test_several_windows_stand_between_commas_or_on_lines_of_their_own() -> None:
    assert len(windows.parse("Mon 08:00-09:00, Tue 08:00-09:00\nWed 08:00-09:00")) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Mon", "is no window"),
        ("Mon 8:00-9:00", "is no window"),
        ("Mon 08:00-09:00 Tue 08:00-09:00", "is no window"),
        ("Mox 08:00-09:00", "has a day that is none"),
        ("Mon-Foo 08:00-09:00", "has a day that is none"),
        ("Mon 25:00-26:00", "has a time that is none"),
        ("Mon 08:60-09:00", "has a time that is none"),
        ("Mon 08:00-08:00", "never opens"),
        ("Mon 24:00-05:00", "never opens"),
        (", ".join(["Mon 08:00-09:00"] * 51), "51 windows; at most 50"),
    ],
)
def test_what_is_no_window_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidWindows, match=why):
        windows.parse(text)


# What they mean


def test_without_windows_it_is_always_open() -> None:
    assert at("", "2026-01-01T00:00") == (True, None)


def test_a_window_over_the_whole_week_never_closes() -> None:
    assert at("daily 00:00-24:00", "2026-01-01T00:00") == (True, None)


def test_a_closed_window_tells_when_it_opens() -> None:
    assert at("Mon 22:00-05:00", "2026-01-06T12:00") == (False, utc("2026-01-12T21:00"))


def test_a_window_that_crosses_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    assert at("Mon 22:00-05:00", "2026-01-06T03:59") == (True, utc("2026-01-06T04:00"))
    assert not at("Mon 22:00-05:00", "2026-01-05T03:59").is_open


def test_an_hour_that_is_skipped_opens_nothing() -> None:
    # The last Sunday of March: the clock goes from 02:00 to 03:00.
    assert at("Sun 02:00-03:00", "2026-03-29T00:59") == (False, utc("2026-04-05T00:00"))


def test_a_window_that_starts_in_a_skipped_hour_opens_when_the_clock_has_jumped() -> None:
    assert at("Sun 02:30-04:00", "2026-03-29T00:30") == (False, utc("2026-03-29T01:00"))


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    # The last Sunday of October: the clock goes from 03:00 back to 02:00.
    assert at("Sun 02:15-02:45", "2026-10-25T00:15") == (True, utc("2026-10-25T00:45"))
    assert at("Sun 02:15-02:45", "2026-10-25T01:15") == (True, utc("2026-10-25T01:45"))


@given(
    minutes=st.integers(0, 3 * YEAR),
    zone=st.sampled_from(ZONES),
    text=st.sampled_from(["Mon 22:00-05:00", HOURS, "daily 00:00-24:00", "Sun 02:00-03:00"]),
)
def test_until_is_when_it_changes(minutes: int, zone: str, text: str) -> None:
    hours, now = windows.parse(text), utc("2025-01-01T00:00") + dt.timedelta(minutes=minutes)
    found = windows.at(hours, ZoneInfo(zone), now)
    if found.until:
        assert found.until > now
        assert windows.at(hours, ZoneInfo(zone), found.until).is_open != found.is_open


# A year, minute by minute


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def is_open_by_the_c_library(seconds: float) -> bool:
    """``HOURS`` once more, by hand, with a clock that Python's zoneinfo has nothing to do with."""
    local = time.localtime(seconds)
    clock, day = (local.tm_hour, local.tm_min), local.tm_wday
    if day < 5 and clock >= (22, 0):
        return True
    if 1 <= day <= 5 and clock < (5, 0):
        return True
    if day == 5:
        return (0, 15) <= clock < (2, 30)
    if day == 6:
        return (2, 15) <= clock < (3, 30) or clock >= (23, 30)
    return day == 0 and clock < (0, 30)


@pytest.mark.services
@pytest.mark.parametrize("zone", ZONES)
def test_a_year_agrees_with_the_c_library_minute_by_minute(
    clock_of: pytest.MonkeyPatch, zone: str
) -> None:
    clock_of.setenv("TZ", zone)
    time.tzset()
    hours, start = windows.parse(HOURS), utc("2026-01-01T00:00")
    expected = [is_open_by_the_c_library(start.timestamp() + 60 * n) for n in range(YEAR)]
    minute = 0
    while minute < YEAR:
        found = windows.at(hours, ZoneInfo(zone), start + dt.timedelta(minutes=minute))
        assert found.until
        until = min(YEAR, int((found.until - start).total_seconds()) // 60)
        assert set(expected[minute:until]) == {found.is_open}, (zone, minute, until)
        assert until == YEAR or expected[until] != found.is_open
        minute = until
