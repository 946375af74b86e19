"""A simulator that is late says so, and how much."""

import asyncio
import logging

import pytest

from simulator import lateness
from simulator.lateness import Lateness


def test_the_latest_of_a_hundred_does_not_count_and_the_second_does() -> None:
    late = Lateness()
    for seconds in [0.0] * 98 + [1.0, 60.0]:
        late.note(seconds)
    assert late.rounds == 100
    assert late.p99 == pytest.approx(1.0, rel=0.1)


def test_docks_that_keep_their_schedule_are_not_late() -> None:
    late = Lateness()
    assert late.p99 == 0
    for _ in range(100):
        late.note(0.0002)
    assert late.p99 == 0


def test_each_window_begins_anew_and_the_whole_remembers() -> None:
    late = Lateness()
    late.note(2.0)
    assert late.close_window() == pytest.approx(2.0, rel=0.1)
    late.note(0.0)
    assert late.close_window() == 0
    assert late.rounds == 2
    assert late.p99 == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(("seconds", "warnings"), [(0.1, 0), (3.0, 1)])
async def test_only_who_is_behind_schedule_is_warned(
    seconds: float, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateness, "WINDOW", 0)
    late = Lateness()
    late.note(seconds)
    with caplog.at_level(logging.WARNING):
        watching = asyncio.create_task(late.watch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        watching.cancel()
    assert caplog.text.count("behind schedule") == warnings
