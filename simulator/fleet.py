"""Many docks in one process."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from simulator.dock import Dock
from simulator.download import new_client
from simulator.ending import end
from simulator.memory import Memory
from simulator.moments import Moments
from simulator.rig import Options, Rig, Tally
from simulator.specs import DockSpec, plan

__all__ = ["DockSpec", "Fleet", "Options", "Summary", "plan"]

log = logging.getLogger(__name__)

STARTS_PER_SECOND = 100
# Real seconds that docks have for leaving the broker before the fleet stops waiting for them.
FAREWELL = 3.0


@dataclass(frozen=True)
class Summary:
    """How many docks there are and came online, and what became of commands and upgrades.

    `late_p99` in real seconds: by how much 99 of 100 rounds of osd ended later than they were due, at most.
    """

    docks: int
    online: int
    outcomes: Mapping[str, int]
    commands: int
    upgrades: int
    reports: int
    rounds: int
    late_p99: float


class Fleet:
    """Docks that live as long as `run` does. `online` is set once every dock has been through its onboarding.

    `moments` is for whoever wants something to happen to all of them.
    """

    def __init__(
        self, specs: Sequence[DockSpec], options: Options, memory: Memory | None = None
    ) -> None:
        self.specs = tuple(specs)
        self.online = asyncio.Event()
        self.moments = Moments()
        self.docks: dict[str, Dock] = {}
        self._options = options
        self._memory = memory or Memory()
        self._tally = Tally()

    async def run(self) -> None:
        """Start the docks one after the other and live until cancelled."""
        async with new_client() as http:
            watching = asyncio.create_task(self._tally.lateness.watch())
            tasks: list[asyncio.Task[None]] = []
            try:
                for spec in self.specs:
                    tasks.append(asyncio.create_task(self._dock(spec, http).run()))
                    await asyncio.sleep(1 / STARTS_PER_SECOND)
                await asyncio.wait(tasks)
            finally:
                watching.cancel()
                if late := await end(tasks, patience=FAREWELL):
                    log.warning("%d docks did not leave in time", late)
                self._memory.save()

    def summary(self) -> Summary:
        """Return the counts up to now."""
        tally = self._tally
        return Summary(
            docks=len(self.specs),
            online=len(tally.online),
            outcomes=dict(sorted(tally.outcomes.items())),
            commands=len(tally.commands),
            upgrades=tally.upgrades,
            reports=tally.reports,
            rounds=tally.lateness.rounds,
            late_p99=round(tally.lateness.p99, 3),
        )

    def _dock(self, spec: DockSpec, http: httpx.AsyncClient) -> Dock:
        rig = Rig(
            spec, self._options, http, self._memory, self._tally, self._note_online, self.moments
        )
        dock = self.docks[spec.sn] = Dock(rig)
        return dock

    def _note_online(self) -> None:
        if len(self._tally.online) == len(self.specs):
            self.online.set()
