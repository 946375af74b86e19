"""Which docks there are: serial numbers, models, versions and faults, decided before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simulator import faults, packages

Dialect = Literal["docs", "v115", "sdk"]


@dataclass(frozen=True)
class Generation:
    """What the docks of one generation share. `sn_prefix` and `aircraft_sn_prefix` mark invented SNs."""

    dock_series: str
    aircraft_series: str
    dialect: Dialect
    thing_version: str
    sn_prefix: str
    aircraft_sn_prefix: str


GENERATIONS = (
    Generation("DOCK1", "M30", "sdk", "1.1.3", "4TADK1SIM", "1581F5BSIM"),
    Generation("DOCK2", "M3D", "docs", "1.3.1", "7CTDK2SIM", "1581F6QSIM"),
    Generation("DOCK3", "M4D", "v115", "1.4.1", "8UUXK3SIM", "1581F8HSIM"),
)


@dataclass(frozen=True)
class DockSpec:
    """A dock with its aircraft before its first start.

    Model keys are `domain-type-sub_type`, versions NN.NN.NNNN; `aircraft_compatible_status` 1 means that the
    aircraft asks for a consistency upgrade. `fault` is a name in `faults.FAULTS`, or None.
    """

    sn: str
    model_key: str
    callsign: str
    version: str
    aircraft_sn: str
    aircraft_model_key: str
    aircraft_callsign: str
    aircraft_version: str
    aircraft_compatible_status: int
    dialect: Dialect
    thing_version: str
    fault: str | None


MOST = 1_000_000  # docks, numbered from 1; no machine simulates so many


def plan(
    docks: int,
    faulty: Mapping[str, int] | None = None,
    *,
    from_versions: Mapping[str, str] | None = None,
    first: int = 1,
) -> tuple[DockSpec, ...]:
    """Return `docks` specs; the same arguments give the same docks.

    Generations take turns (Dock 1, 2, 3, 1 …). `faulty` maps a fault's name to how many docks have it; they are
    the last docks, neighbours, so each fault meets different generations. `from_versions` maps a series (`DOCK2`)
    to the version with which its healthy devices start. `first` numbers the docks of a further process.
    Raises ValueError for fewer than one dock or too many, unknown faults or series, bad versions, more faults than docks.
    """
    if docks < 1 or first < 1:
        raise ValueError(
            f"There must be at least 1 dock, numbered from 1; not {docks} from {first}."
        )
    if docks + first - 1 > MOST:
        raise ValueError(f"There are at most {MOST} docks; not {docks} from {first}.")
    starts = _start_versions(from_versions or {})
    names = _fault_names(docks, faulty or {})
    return tuple(_spec(index, name, starts) for index, name in enumerate(names, first - 1))


def _fault_names(docks: int, faulty: Mapping[str, int]) -> list[str | None]:
    for name, count in faulty.items():
        faults.find(name)
        if count < 0:
            raise ValueError(f"Fault {name!r} cannot have {count} docks.")
    if (count := sum(faulty.values())) > docks:
        raise ValueError(f"{count} faults do not fit {docks} docks.")
    wanted = [name for name in sorted(faulty) for _ in range(faulty[name])]
    return [None] * (docks - len(wanted)) + [
        None if name == "no-fault" else name for name in wanted
    ]


def _start_versions(from_versions: Mapping[str, str]) -> Mapping[str, str]:
    for series, version in from_versions.items():
        if series not in packages.SERIES:
            known = ", ".join(packages.SERIES)
            raise ValueError(f"Unknown series {series!r}. Known: {known}.")
        if not packages.VERSION.fullmatch(version):
            raise ValueError(f"Version {version!r} is not in the form NN.NN.NNNN.")
    return from_versions


def _spec(index: int, fault: str | None, starts: Mapping[str, str]) -> DockSpec:
    generation, turn = GENERATIONS[index % 3], index // 3
    dock = packages.SERIES[generation.dock_series]
    aircraft = packages.SERIES[generation.aircraft_series]
    lags = faults.find(fault).needs_consistency
    number = f"{index + 1:04d}"
    return DockSpec(
        sn=generation.sn_prefix + number,
        model_key=dock.model_keys[0],
        callsign=f"Simulated dock {number}",
        version=_version(dock, turn, starts, is_newest=lags),
        aircraft_sn=generation.aircraft_sn_prefix + number,
        aircraft_model_key=aircraft.model_keys[turn % 2],
        aircraft_callsign=f"Simulated aircraft {number}",
        aircraft_version=_version(aircraft, turn, starts, is_newest=lags),
        aircraft_compatible_status=int(lags),
        dialect=generation.dialect,
        thing_version=generation.thing_version,
        fault=fault,
    )


def _version(
    series: packages.Series, turn: int, starts: Mapping[str, str], *, is_newest: bool
) -> str:
    if is_newest:
        return series.newer.version
    # One dock in four of a generation runs the older release already, so that a fleet is mixed.
    usual = series.older.version if turn % 4 == 3 else series.factory
    return starts.get(series.name, usual)
