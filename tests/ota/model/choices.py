"""What hypothesis chooses from."""

import datetime as dt
from collections.abc import Callable

from hypothesis import strategies as st

# Evening in Europe, two days before its clocks change.
START = dt.datetime(2026, 3, 27, 20, tzinfo=dt.UTC)

# The hours that rollouts get, each with a computation of its own.
HOURS: dict[str, Callable[[dt.datetime], bool]] = {
    "": lambda _: True,
    "daily 22:00-05:00": lambda wall: wall.hour >= 22 or wall.hour < 5,
    "Mon-Fri 08:00-18:00": lambda wall: wall.weekday() < 5 and 8 <= wall.hour < 18,
    "Sat 00:00-24:00, Sun 00:00-24:00": lambda wall: wall.weekday() >= 5,
}
# One of each remedy, and a code that nobody knows.
CODES = (312014, 312015, 312002, 312003, 312030, 312016, 312022, 312010, 312001, 399999)
DOCKS = 6

docks = st.integers(0, DOCKS - 1)
policies = st.fixed_dictionaries(
    {
        "waves": st.sampled_from(["", "1, rest", "50%, 50%", "sites", "1, 1, rest"]),
        "windows": st.sampled_from(["", "", "", *HOURS]),
        "limit_in_flight": st.integers(1, 4),
        "limit_per_site": st.sampled_from([None, None, 1, 2]),
        "jitter_seconds": st.sampled_from([0, 0, 0, 30, 600]),
        "max_failed": st.sampled_from([None, None, 0, 2]),
        "max_failed_percent": st.sampled_from([None, 20, 50]),
        "failed_after": st.integers(1, 3),
        "soak_minutes": st.sampled_from([0, 0, 5]),
        "asks_between_waves": st.sampled_from([False, False, True]),
        "gate_first": st.sampled_from([100, 50]),
        "expected_minutes": st.sampled_from([30, 60]),
    }
)
minutes = st.sampled_from([None, None, None, 20, 180])

deeds = st.sampled_from(
    [
        *("answer take", "answer begin", "answer begin", "answer mute", "answer refuse"),
        *("answer refuse", "answer lose", "on in_progress", "on paused", "on new word"),
        *("fail failed", "fail failed", "fail rejected", "fail canceled", "fail timeout"),
        *("fail ok", "end prove", "end prove", "end only ok", "end only version", "end lie"),
        *("end die", "tell_version", "foreign", "become_busy", "go_away", "come_back"),
        *("come_back", "repeat", "repeat", "arrive_late", "arrive_late"),
        *("aircraft fly", "aircraft land", "aircraft land", "aircraft sleep", "aircraft wake"),
        *("aircraft vanish", "aircraft drain", "aircraft lag", "aircraft swap"),
    ]
)
VERBS = (
    *("pause", "resume", "resume", "cancel", "retry", "retry", "retry one", "dismiss"),
    *("open_next_wave", "open_next_wave", "approve", "approve", "deny", "change", "change"),
    *("starts_at", "deadline_at"),
)
TROUBLES = (
    *("wait 65", "wait 600", "wait 1800", "wait 21600", "jump 1", "jump -1", "bridge"),
    *("broker away", "broker kills", "broker doubtful"),
    *("library withdraw", "library check", "library right", "library right", "library add"),
)
