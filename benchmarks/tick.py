"""The clock's tick with many open tasks: ``python -m benchmarks tick``.

Ten rollouts run, and all their tasks wait: half of them for docks that are away, half only for a free slot. One tick
looks at those that changed, as many as it may at once; an idle one finds nothing that changed.
"""

import time
from collections.abc import Iterable
from statistics import median

from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks import filling, ground
from benchmarks.results import Result, Size
from fleet import versions
from fleet.models import Device
from mqtt_bridge.models import BridgeSession
from ota import tasks
from ota.models import FirmwarePackage, Rollout, UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import judging

TOPIC = "tick"
RUNNING = 10
WAITING = {Size.SMALL: [100], Size.FULL: [10_000, 100_000]}


def run(size: Size) -> Iterable[Result]:
    with ground.folder() as path, ground.databases(path, size) as found:
        for database, url in found.items():
            for waiting in WAITING[size]:
                ground.use(url)
                call_command("flush", interactive=False, verbosity=0)
                make(waiting)
                yield from measured(f"{waiting:,} waiting, {database}", size)


def make(waiting: int) -> None:
    """So many docks, each with a task that waits in one of ten rollouts."""
    filling.make(filling.Amounts(devices=2 * waiting, tasks=waiting, events=3))
    of = waiting // RUNNING
    UpgradeTask.objects.update(
        status=TaskStatus.PENDING,
        finished_at=None,
        rollout_id=1 + (F("pk") - 1) / of,
        wave_id=1 + filling.WAVES * ((F("pk") - 1) / of),
    )
    oldest = filling.VERSIONS[0]
    Device.objects.update(firmware_version=oldest, firmware_number=versions.number(oldest))
    # All are bound: what waits for a dock that is not is called off.
    Device.objects.update(organization=1, bound_at=timezone.now())
    UpgradeTask.objects.update(organization=1)
    newest = FirmwarePackage.objects.latest("version_number")
    UpgradeTarget.objects.update(package=newest, to_version=newest.version, confirmed_at=None)
    there = Device.objects.filter(presence=Device.Presence.ONLINE)
    UpgradeTask.objects.filter(gateway__in=there).update(is_ready=True, waits_for=[])
    Rollout.objects.filter(pk__lte=RUNNING).update(status=Rollout.Status.RUNNING, finished_at=None)
    filling.settle()


def measured(what: str, size: Size) -> Iterable[Result]:
    ticks = ("a tick that looks at 500", all_changed), ("an idle tick", nothing_changed)
    for name, prepare in ticks:
        seconds, queries = [], 0
        for _ in range(size.rounds):
            prepare()
            with CaptureQueriesContext(connection) as found:
                started = time.perf_counter()
                tasks.tick(timezone.now())
                seconds.append(time.perf_counter() - started)
            queries = len(found)
        yield Result(
            TOPIC,
            f"{name}, {what}",
            median(seconds),
            unit="s",
            goal="<= 1",
            note=f"{queries} queries",
        )


def all_changed() -> None:
    listen()
    UpgradeTask.objects.update(checked_at=None)


def nothing_changed() -> None:
    listen()
    now = timezone.now()
    UpgradeTask.objects.update(checked_at=now, due_at=now + judging.LOOK_ANYWAY)


def listen() -> None:
    """The bridge lives. To fill the database takes longer than one may be silent."""
    BridgeSession.objects.update(seen_at=timezone.now())
