"""What begins or ends for all docks of a fleet at one moment, when somebody says so."""

import asyncio
from dataclasses import dataclass, field

from simulator.faults import Failure

# Not a failure that passes by itself: the server is not to try again on its own.
MASS_FAILURE = Failure("upgrade", 50, 312016)


@dataclass
class Moments:
    """`failure` ends every upgrade that comes to it; `cleared` is set once passing faults are over."""

    failure: Failure | None = None
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    def clear(self) -> None:
        """End the faults that pass."""
        self.cleared.set()

    def turn(self) -> None:
        """Begin a mass failure, or end it."""
        self.failure = None if self.failure else MASS_FAILURE
