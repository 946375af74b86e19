"""How far a simulator is behind its own schedule: docks that are late measure themselves, not the server."""

import asyncio
import logging
import math
from collections import Counter

log = logging.getLogger(__name__)

WINDOW = 10.0  # real seconds between two looks
# A round of osd that ends later than this is late: docks push every two seconds, and at least every half.
TOLERABLE = 0.25  # real seconds
_STEP = 1.1  # two latenesses that differ by less are one


class Lateness:
    """Counts by how much rounds were late; the same memory for any number of them."""

    def __init__(self) -> None:
        self._all: Counter[int] = Counter()
        self._window: Counter[int] = Counter()

    def note(self, seconds: float) -> None:
        """Count a round that ended so many real seconds after it was due."""
        bucket = math.ceil(math.log(max(seconds, 0.001), _STEP))
        self._window[bucket] += 1

    @property
    def rounds(self) -> int:
        return (self._all + self._window).total()

    @property
    def p99(self) -> float:
        """Return the real seconds by which all but one round in a hundred were late at most."""
        return _p99(self._all + self._window)

    def close_window(self) -> float:
        """Return the `p99` since the last call."""
        last, self._window = self._window, Counter()
        self._all += last
        return _p99(last)

    async def watch(self) -> None:
        """Warn as long as docks are late; runs until cancelled."""
        while True:
            await asyncio.sleep(WINDOW)
            late = self.close_window()
            if late > TOLERABLE:
                log.warning(
                    "behind schedule: 1 round of osd in 100 is more than %.1f s late; "
                    "use fewer docks, or a second process",
                    late,
                )


def _p99(counts: Counter[int]) -> float:
    """Return the upper end of the bucket with the 99th of 100 rounds; 0 without rounds or within a millisecond."""
    left = counts.total() * 0.99
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            seconds = _STEP**bucket
            return seconds if seconds > 0.0011 else 0.0
    return 0.0
