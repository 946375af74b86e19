"""What can be wrong with a simulated dock, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Step = Literal["download", "upgrade"]

# Bytes per second of the link of a `slow-download` dock.
SLOW_LINK = 50_000


@dataclass(frozen=True)
class Condition:
    """What the osd of a dock shows about itself. DJI Cloud API: dock properties."""

    mode_code: int = 0
    flighttask_step_code: int = 5
    drone_in_dock: int = 1
    battery_percent: int = 93
    emergency_stop_state: int = 0
    link_workmode: int = 0


FINE = Condition()


# Result code of a device that restarted while it upgraded. DJI Cloud API: error codes.
RESTARTED = 312028


@dataclass(frozen=True)
class Failure:
    """The end of an upgrade: at which `step` and `percent`, with which result `code`.

    With RESTARTED the dock goes off and on once it has told it.
    """

    step: Step
    percent: int
    code: int


@dataclass(frozen=True)
class Fault:
    """How a dock differs from a healthy one. The defaults are a healthy dock."""

    summary: str
    condition: Condition = FINE
    clears: bool = False
    leaves: bool = False
    needs_consistency: bool = False
    aircraft_sleeps: bool = False
    rejections: int = 0
    mute_seconds: float = 0
    failure: Failure | None = None
    keeps_version: bool = False
    installs_anyway: bool = False
    loses_terminal: bool = False
    vanishes_after: int | None = None
    repeats_progress: bool = False
    has_foreign_upgrade: bool = False
    rate: int | None = None


HEALTHY = Fault("nothing wrong")
ALWAYS = 1_000_000

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "no-fault": HEALTHY,
        "busy": Fault("flying", Condition(mode_code=4, flighttask_step_code=1), clears=True),
        "offline": Fault("onboards once, then leaves the broker", clears=True, leaves=True),
        "low-battery": Fault("aircraft at 12 %", Condition(battery_percent=12), clears=True),
        "aircraft-out": Fault("aircraft not in the dock", Condition(drone_in_dock=0), clears=True),
        "emergency-stop": Fault("stop pressed", Condition(emergency_stop_state=1), clears=True),
        "4g": Fault("4G enhancement on", Condition(link_workmode=1), clears=True),
        "consistency": Fault("newest firmware, a module lags behind", needs_consistency=True),
        "aircraft-off": Fault("aircraft sleeps in the dock", aircraft_sleeps=True),
        "rejected": Fault("rejects the first command though it looks idle", rejections=1),
        "rejected-always": Fault("rejects every command though it looks idle", rejections=ALWAYS),
        "lost-reply": Fault("accepts without a reply, mute for 45 s", mute_seconds=45),
        "fail-download": Fault("file found damaged", failure=Failure("download", 100, 312003)),
        "fail-upgrade": Fault(
            "restarts while installing, comes back with the old version",
            failure=Failure("upgrade", 31, RESTARTED),
        ),
        "failed-proven": Fault(
            "says that it failed, comes back with the new version",
            failure=Failure("upgrade", 62, RESTARTED),
            installs_anyway=True,
        ),
        "ok-unproven": Fault("says ok, comes back with the old version", keeps_version=True),
        "terminal-lost": Fault("reboots without a terminal event", loses_terminal=True),
        "silent": Fault("disappears for ever while upgrading", vanishes_after=4),
        "duplicate": Fault("progress twice, neighbours swapped", repeats_progress=True),
        "foreign": Fault("somebody else upgrades it", has_foreign_upgrade=True),
        "slow-download": Fault("link of 50 KB/s", rate=SLOW_LINK),
    }
)


def find(name: str | None) -> Fault:
    """Return the fault called `name`; None is a healthy dock. Raises ValueError for an unknown name."""
    if name is None:
        return HEALTHY
    try:
        return FAULTS[name]
    except KeyError:
        raise ValueError(f"Unknown fault {name!r}. Known: {', '.join(sorted(FAULTS))}.") from None
