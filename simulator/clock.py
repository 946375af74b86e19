"""Simulated time: how long a simulated second lasts."""

import asyncio

# However fast time runs, a dock speaks no more often than this (real seconds): compression must not flood a server.
SHORTEST_PERIOD = 0.5


class Clock:
    """Divides simulated waits by `speed`.

    >>> Clock(10).real(60)
    6.0
    """

    def __init__(self, speed: float = 1.0) -> None:
        """Raises ValueError when `speed` is not positive."""
        if speed <= 0:
            raise ValueError(f"Speed must be above 0, not {speed:g}.")
        self.speed = speed

    def real(self, seconds: float) -> float:
        """Return the real seconds that `seconds` of simulated time last."""
        return seconds / self.speed

    def period(self, seconds: float) -> float:
        """Return the real seconds between two repeated messages; never below SHORTEST_PERIOD."""
        return max(SHORTEST_PERIOD, self.real(seconds))

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of simulated time."""
        await asyncio.sleep(self.real(seconds))
