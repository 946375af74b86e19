"""Tells a clock that was set from time that passed, for a process that hears devices all the time."""

import datetime as dt
import time

TOLERANCE = 5.0  # s
DOUBTFUL = 60.0  # s; by then the stored times were moved along by whoever ticks


class Watch:
    """Compares the wall clock with the one that nobody sets, each time that it is asked."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._doubtful_until = 0.0

    def is_even(self, now: dt.datetime) -> bool:
        """Whether the wall clock has gone on as time did, for a minute or since the start."""
        counted = time.monotonic()
        ahead = now.timestamp() - counted
        if self._ahead is not None and abs(ahead - self._ahead) > TOLERANCE:
            self._doubtful_until = counted + DOUBTFUL
        self._ahead = ahead
        return counted >= self._doubtful_until
