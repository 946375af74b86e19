"""Preview and launch of a rollout, beside one row at a time: ``python -m benchmarks.launch [docks]``.

For each database: queries and seconds for so many docks with an aircraft each. The peer saves one
object after the other, as the samples of such software do; that of the preview looks up the same and saves nothing.
With ten thousand docks it would take minutes, so there ours stands alone.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any

from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from rich.console import Console

from benchmarks import ground, results
from benchmarks.results import Result, Size
from benchmarks.rows import make_fleet
from fleet.models import Device
from ota import rollouts
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTarget, UpgradeTask, Wave
from ota.rollouts import Options

Work = Callable[[], None]

TOPIC = "launch"
SMALL, DOCKS, MANY = 20, 1000, 10_000
PEER = "one row at a time"


def run(size: Size) -> Iterable[Result]:
    yield from measured(size, [SMALL] if size is Size.SMALL else [DOCKS, MANY])


def measured(size: Size, docks: Sequence[int]) -> Iterable[Result]:
    with ground.folder() as path, ground.databases(path, size) as found:
        for database, url in found.items():
            for number in docks:
                ground.use(url)
                call_command("flush", interactive=False, verbosity=0)
                make_fleet(number)
                yield from (compared if number < MANY else alone)(database, number, size)


def compared(database: str, docks: int, size: Size) -> Iterable[Result]:
    """Preview and launch, in turns with the peer."""
    pairs = {preview: look_one_by_one, launch: one_by_one}
    seconds = _in_turns([*pairs, *pairs.values()], size.rounds)
    for work, peer in pairs.items():
        what, ours, theirs = _what(work, docks, database), seconds[work], seconds[peer]
        yield Result(TOPIC, what, count(work), PEER, count(peer), "queries")
        ratio = results.ratio(ours, theirs, less_is_better=True)
        yield Result(TOPIC, what, median(ours), PEER, median(theirs), "s", ratio)


def alone(database: str, docks: int, size: Size) -> Iterable[Result]:
    """Preview and launch of very many."""
    seconds = _in_turns([preview, launch], size.rounds)
    for work, goal in ((preview, ""), (launch, "<= 3")):
        what = _what(work, docks, database)
        yield Result(TOPIC, what, count(work), unit="queries", goal="<= 60")
        yield Result(TOPIC, what, median(seconds[work]), unit="s", goal=goal)


def _in_turns(works: Sequence[Work], rounds: int) -> dict[Work, list[float]]:
    found: dict[Work, list[float]] = {work: [] for work in works}
    for _ in range(rounds):
        for work in works:
            found[work].append(measure(work))
    return found


def _what(work: Work, docks: int, database: str) -> str:
    return f"{work.__name__} of {docks:,} docks with aircraft, {database}"


def preview() -> None:
    rollouts.plan(Device.objects.all(), Options(), timezone.now())


def launch() -> None:
    rollouts.launch(Device.objects.all(), Options(), timezone.now())


def look_one_by_one() -> None:
    """The preview's peer."""
    list(_planned_one_by_one())


def one_by_one() -> None:
    """The launch's peer: a row and its history at a time, checks before each insert."""
    rollout = Rollout.objects.create(name="peer", limit_in_flight=20)
    wave = Wave.objects.create(rollout=rollout, number=1, gate=100)
    for dock, targets in _planned_one_by_one():
        task = UpgradeTask.objects.create(
            rollout=rollout, wave=wave, gateway=dock, status_at=timezone.now()
        )
        for device, package in targets:
            UpgradeTarget.objects.create(
                task=task, device=device, package=package, upgrade_type="regular",
                from_version=device.firmware_version, to_version=package.version,
            )  # fmt: skip
        TaskEvent.objects.create(task=task, at=timezone.now(), kind="status", to_status="pending")


def _planned_one_by_one() -> Iterator[tuple[Device, list[tuple[Device, FirmwarePackage]]]]:
    """Each idle dock, and what it and its aircraft would get."""
    for dock in Device.objects.filter(model__key="3-2-0"):
        if UpgradeTask.objects.open().filter(gateway=dock).exists():
            continue
        devices = (dock, *dock.aircraft.all())
        yield dock, [(one, one.model.packages.latest("version_number")) for one in devices]


def measure(work: Work) -> float:
    """Seconds of one run, which is undone so that the next one finds the same rows."""
    with transaction.atomic():
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        transaction.set_rollback(True)
    return seconds


def count(work: Work) -> int:
    """The queries of one run."""
    queries = 0

    def note(execute: Any, *query: Any) -> Any:
        nonlocal queries
        queries += 1
        return execute(*query)

    with transaction.atomic():
        with connection.execute_wrapper(note):
            work()
        transaction.set_rollback(True)
    return queries


def main() -> None:
    docks = int(sys.argv[1]) if len(sys.argv) > 1 else DOCKS
    found = list(measured(Size.FULL, [docks]))
    Console().print(results.table(found))


if __name__ == "__main__":
    main()
