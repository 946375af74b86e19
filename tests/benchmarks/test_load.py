"""The load tells truly how far it fell behind."""

import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import load

STALL = 0.3  # s


class Clock:
    """Time passes only while the load waits; its second wait stalls."""

    def __init__(self) -> None:
        self.now, self._waits = 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def select(self, seconds: float) -> list[Any]:
        self._waits += 1
        self.now += STALL if self._waits == 2 else seconds
        return []


@pytest.fixture
def line() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_a_stall_while_the_load_waits_is_told(
    line: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    monkeypatch.setattr(selectors.DefaultSelector, "select", lambda _, s: clock.select(s))
    sent = load._pour(line, [b"packet"], rate=1000, seconds=1)
    assert sent.late == pytest.approx(STALL - load.TICK)
    assert sent.messages == pytest.approx(1000, abs=10)
