"""What the parts of one dock share."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import httpx

from simulator import download, faults, wire
from simulator.clock import Clock
from simulator.devices import Device, Pair
from simulator.lateness import Lateness
from simulator.link import Broker
from simulator.memory import Memory
from simulator.moments import Moments
from simulator.power import Power
from simulator.specs import DockSpec
from simulator.voice import Voice


@dataclass(frozen=True)
class Options:
    """How all docks of a fleet behave.

    `speed` divides simulated waits. Real: `clear_after` (seconds until a passing fault ends, 0: never),
    `reply_timeout` (seconds), `rate` (bytes per second of each dock), `piece` (bytes per Range request),
    `osd` (seconds between two rounds of osd; None: as the clock has it).
    Simulated: `reboot` and `upgrade` (seconds). The binding code never shows in a representation.
    """

    broker: Broker
    speed: float = 1.0
    organization: str = ""
    code: str = field(default="", repr=False)
    clear_after: float = 300.0
    reply_timeout: float = 10.0
    rate: int | None = None
    piece: int = download.PIECE
    osd: float | None = None
    reboot: float = 60.0
    upgrade: float = 120.0


@dataclass
class Tally:
    """What became of the docks: who is through its onboarding, and how many outcomes of each kind.

    `commands` are the `tid` of all `ota_create` that came, `reports` how many different `ota_progress` were told.
    """

    online: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    upgrades: int = 0
    reports: int = 0
    lateness: Lateness = field(default_factory=Lateness)
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class Rig:
    """One dock's spec, devices, voice, power and surroundings."""

    spec: DockSpec
    options: Options
    http: httpx.AsyncClient
    memory: Memory
    tally: Tally
    on_online: Callable[[], None] = lambda: None
    moments: Moments = field(default_factory=Moments)

    def __post_init__(self) -> None:
        self.fault = faults.find(self.spec.fault)
        self.clock = Clock(self.options.speed)
        self.pair = Pair.from_spec(self.spec, self.memory)
        self.voice = Voice(self.spec.sn, self.options.reply_timeout)
        self.power = Power()

    @property
    def line(self) -> download.Line:
        """Return the dock's way to HTTP servers, as slow as its fault makes it."""
        rate = self.fault.rate or self.options.rate
        return download.Line(self.http, self.clock, rate, self.options.piece)

    def state(self, device: Device, data: wire.Json) -> tuple[str, bytes]:
        """Return topic and payload of a `state` push of `device`."""
        push = wire.Push(device.sn, "state", self.spec.sn, data)
        return push.topic, push.payload()

    async def push_upgrading(self, sns: Collection[str]) -> None:
        """Push `firmware_upgrade_status` of those of `sns` that are on, as soon as there is a connection."""
        for device in self.pair.powered:
            if device.sn not in sns:
                continue
            status = {"firmware_upgrade_status": int(device.is_upgrading)}
            await self.voice.insist(*self.state(device, status))
