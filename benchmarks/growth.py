"""How cost grows with the fleet, from a thousand to a million docks: ``python -m benchmarks.growth``.

A model, no measurement: unit costs that were measured (see docs/benchmarks.md) go through two small
simulations. One upgrades a whole fleet minute by minute, within nightly hours, an uplink and a limit
in flight. The other writes and folds history day by day. What comes out is orders of magnitude.
``--write`` puts the table and the charts into docs/.
"""

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks import chart, results
from benchmarks.results import Result, Size

TOPIC = "growth"
DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
DAY = 24 * 60  # minutes
GB = 1e9


class Costs(NamedTuple):
    """Microseconds of processor time for one message, by who spends them."""

    broker: float
    bridge: float
    database: float
    worker: float = 0.0


# Measured on two cores of an AMD EPYC: of osd at 20,000 a second over two bridges, of reports at 5,000
# (in large batches they cost the bridge 20), of commands in chunks of 500. What broker and database
# spend was measured on an Intel Xeon, which is somewhat slower.
OSD = Costs(broker=9, bridge=41, database=40)
# A bridge knows for 7.5 to 10 s what a device said (fleet/telemetry.py): each group of osd comes again about so often
# meanwhile, if all of it comes to the same bridge.
REPEATS = 3.5
# us of a message that is known, and what a look at the database adds. Fitted to simulated dealing at random: 44 us with
# two bridges, 85 with fourteen. By topic it is what was measured.
KNOWN, LOOK = 10, 94
REPORT = Costs(broker=10, bridge=70, database=40)
COMMAND = Costs(broker=10, bridge=70, database=150, worker=340)
TICKS = 0.05  # cores of the workers, also while nothing is to do
LINE = 330  # bytes in PostgreSQL, with indexes
SUMMARY = 3 * 110  # bytes that are left of a task's reports
SENT = 20  # us to send a megabyte by sendfile (nginx)

# What docks do.
OSD_RATE = (
    2.0  # messages a second: three groups of the dock and one of the aircraft, each two seconds
)
UPGRADES = 6  # a year
REPORTS = 100  # of an upgrade
KEPT_LINES = 10  # of an upgrade: status, command, reply
PACKAGES = 1.0 * GB  # of a dock and its aircraft
INSTALLING = 8  # minutes: installation and restart
LINE_RATE = 2.5e6 * 60  # bytes a minute that a dock can fetch


class Fleet(NamedTuple):
    """A fleet and what it is given: bytes a second of uplink, docks in flight, days of history."""

    docks: int
    uplink: float
    in_flight: int
    event_days: int = 90
    hours: int = 8  # of a night
    by_topic: bool = True  # how the broker deals messages out among bridges; else in turn


class Rollout(NamedTuple):
    """A whole fleet's upgrade: nights, and the busiest minute."""

    nights: int
    peak_reports: float  # a second
    peak_uplink: float  # bytes a second


class Need(NamedTuple):
    """Cores by part, processes, GB, and GB a month."""

    broker: float
    bridge: float
    database: float
    worker: float
    firmware: float
    bridges: int
    history: float
    plateau_after: int
    uplink_gb: float
    nights: int


def fleet(docks: int) -> Fleet:
    """What one would reasonably give it."""
    return Fleet(docks, uplink=max(125e6, docks * 12_500.0), in_flight=max(200, docks // 20))


def roll_out(given: Fleet) -> Rollout:
    """Minute by minute: docks start while there is room, share the uplink, install, and are done."""
    waiting, minute = given.docks, 0
    downloading: deque[list[float]] = deque()  # [docks, bytes that each still needs]
    installing: deque[tuple[int, float]] = deque()  # (minute of the end, docks)
    peak_reports = peak_uplink = 0.0
    while waiting or downloading or installing:
        while installing and installing[0][0] <= minute:
            installing.popleft()
        running = sum(docks for docks, _ in downloading) + sum(docks for _, docks in installing)
        if minute % DAY < given.hours * 60 and waiting:
            starting = min(waiting, max(0, given.in_flight - int(running)))
            waiting -= starting
            running += starting
            if starting:
                downloading.append([starting, PACKAGES])
        peak_uplink = max(
            peak_uplink, _download(downloading, installing, given.uplink * 60, minute) / 60
        )
        # A report every two seconds while bytes come and while they are installed, at most.
        peak_reports = max(peak_reports, running * REPORTS / (INSTALLING * 60))
        minute += 1
    return Rollout(-(-minute // DAY), peak_reports, peak_uplink)


def _download(
    downloading: deque[list[float]],
    installing: deque[tuple[int, float]],
    uplink: float,
    minute: int,
) -> float:
    """A minute of all downloads; returns the bytes that went out."""
    docks = sum(found[0] for found in downloading)
    if not docks:
        return 0.0
    share = min(LINE_RATE, uplink / docks)
    sent = 0.0
    for found in downloading:
        sent += found[0] * min(share, found[1])
        found[1] -= share
    while downloading and downloading[0][1] <= 0:
        installing.append((minute + INSTALLING, downloading.popleft()[0]))
    return sent


def history(given: Fleet, years: int = 2) -> list[float]:
    """GB of history at the end of each day: lines come, reports older than ``event_days`` are folded."""
    a_day = given.docks * UPGRADES / 365
    young: deque[float] = deque()
    kept = 0.0
    sizes = []
    for _ in range(365 * years):
        young.append(a_day * REPORTS * LINE)
        kept += a_day * KEPT_LINES * LINE
        if len(young) > given.event_days:
            young.popleft()
            kept += a_day * SUMMARY
        sizes.append((sum(young) + kept) / GB)
    return sizes


def osd_cost(bridges: int, *, by_topic: bool) -> float:
    """Microseconds of a bridge for a message of osd: the more share a dock's, the more looks."""
    if by_topic or bridges == 1:
        return OSD.bridge
    return KNOWN + LOOK * bridges / (bridges + REPEATS)


def need(given: Fleet) -> Need:
    """All of it, in the busiest minute of a rollout."""
    rollout, sizes = roll_out(given), history(given)
    bridges, spent = 0, _spent(given, rollout, 1)
    while bridges < (needed := _bridges(spent["bridge"])):
        bridges, spent = needed, _spent(given, rollout, needed)
    return Need(
        **spent,
        firmware=rollout.peak_uplink / 1e6 * SENT / 1e6,
        bridges=bridges,
        history=sizes[-1],
        plateau_after=given.event_days,
        uplink_gb=given.docks * UPGRADES / 12 * PACKAGES / GB,
        nights=rollout.nights,
    )


def _bridges(cores: float) -> int:
    """A process in Python has one core, and wants room for what comes at once."""
    return max(1, round(cores / 0.6 + 0.5))


def _spent(given: Fleet, rollout: Rollout, bridges: int) -> dict[str, float]:
    """Cores by part, with so many bridges."""
    osd = OSD._replace(bridge=osd_cost(bridges, by_topic=given.by_topic))
    reports = rollout.peak_reports
    rates = (given.docks * OSD_RATE, osd), (reports, REPORT), (reports / REPORTS, COMMAND)
    spent = {
        part: sum(rate * getattr(costs, part) for rate, costs in rates) / 1e6
        for part in Costs._fields
    }
    return spent | {"worker": spent["worker"] + TICKS}


def run(size: Size) -> Iterable[Result]:
    for docks in SIZES[: 2 if size is Size.SMALL else None]:
        found = need(fleet(docks))
        for part in ("broker", "bridge", "database", "worker", "firmware"):
            yield Result(TOPIC, f"{part}, {docks:,} docks", getattr(found, part), unit="cores")
        in_turn = need(fleet(docks)._replace(by_topic=False)).bridges
        yield Result(TOPIC, f"bridges, {docks:,} docks", found.bridges, "in turn", in_turn)
        yield Result(TOPIC, f"history after two years, {docks:,} docks", found.history, unit="GB")
        yield Result(TOPIC, f"packages a month, {docks:,} docks", found.uplink_gb, unit="GB")
        yield Result(TOPIC, f"a rollout to all, {docks:,} docks", found.nights, unit="nights")


def write() -> None:
    """The charts beside docs/scale.md."""
    needs = [need(fleet(docks)) for docks in SIZES]
    in_turn = [need(fleet(docks)._replace(by_topic=False)) for docks in SIZES]
    labels = [f"{docks:,}" for docks in SIZES]
    parts: dict[str, Sequence[float]] = {
        name: [getattr(found, name) for found in needs]
        for name in ("bridge", "broker", "database", "worker", "firmware")
    }
    parts["bridge, dealt in turn"] = [found.bridge for found in in_turn]
    (DOCS / "scale-cores.svg").write_text(
        chart.logarithmic(
            "Cores in the busiest minute of a rollout, by number of docks", labels, parts
        )
    )
    rooms: dict[str, Sequence[float]] = {
        "history, GB": [found.history for found in needs],
        "packages out a month, GB": [found.uplink_gb for found in needs],
        "bridge processes": [found.bridges for found in needs],
    }
    (DOCS / "scale-room.svg").write_text(
        chart.logarithmic("Room, uplink and processes, by number of docks", labels, rooms)
    )


def main() -> None:
    Console().print(results.table(run(Size.FULL)))
    if "--write" in sys.argv[1:]:
        write()


if __name__ == "__main__":
    main()
