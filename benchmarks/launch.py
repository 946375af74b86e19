"""Preview and launch of a rollout, beside one row at a time: ``python -m benchmarks.launch``.

For each database and number of docks (each with its aircraft): queries and seconds, median of
three, and how many times as long the peer takes that saves one object after the other, as the
samples of such software do. Starts a PostgreSQL of its own where one is installed.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.utils import timezone
from rich.console import Console
from rich.table import Table

from config import env
from fleet.models import Device
from ota import rollouts
from ota.models import Rollout, TaskEvent, UpgradeTarget, UpgradeTask
from ota.rollouts import Options
from tests import servers
from tests.make import (
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
)

RUNS = 3


class Figure(NamedTuple):
    """Queries of one run, and the median of the runs in seconds."""

    queries: int
    seconds: float


def preview() -> None:
    rollouts.plan(Device.objects.all(), Options(), timezone.now())


def launch() -> None:
    rollouts.launch(Device.objects.all(), Options(), timezone.now())


def one_by_one() -> None:
    """The peer: a row and its history at a time, checks before each insert."""
    rollout = Rollout.objects.create(name="peer", limit_in_flight=20)
    for dock in Device.objects.filter(model__key="3-2-0"):
        if UpgradeTask.objects.open().filter(gateway=dock).exists():
            continue
        task = UpgradeTask.objects.create(rollout=rollout, gateway=dock, status_at=timezone.now())
        for device in (dock, *dock.aircraft.all()):
            package = device.model.packages.latest("version_number")  # type: ignore[union-attr]
            UpgradeTarget.objects.create(
                task=task, device=device, package=package, upgrade_type="regular",
                from_version=device.firmware_version, to_version=package.version,
            )  # fmt: skip
        TaskEvent.objects.create(task=task, at=timezone.now(), kind="status", to_status="pending")


def measure(work: Callable[[], None]) -> Figure:
    """Runs it in a transaction that is undone, so that each run finds the same rows."""
    seconds: list[float] = []
    queries: list[str] = []

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        queries.append(sql)
        return execute(sql, *rest)

    for _ in range(RUNS):
        with transaction.atomic():
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
            transaction.set_rollback(True)
    with transaction.atomic():
        with connection.execute_wrapper(note):
            work()
        transaction.set_rollback(True)
    return Figure(len(queries), statistics.median(seconds))


def make_fleet(docks: int) -> None:
    make_listening()
    organization = make_organization()
    dock = make_dock(organization=organization)
    aircraft = make_aircraft(dock)
    Device.objects.bulk_create(_like(dock, f"D{number:06d}") for number in range(docks - 1))
    more = Device.objects.filter(sn__startswith="D")
    Device.objects.bulk_create(_like(aircraft, f"A{found.sn}", gateway=found) for found in more)
    make_package()


def _like(device: Device, sn: str, **fields: object) -> Device:
    """A copy that is not saved yet."""
    values = {f.attname: getattr(device, f.attname) for f in Device._meta.concrete_fields}
    values |= {"id": None, "sn": sn, "firmware_version": OLD}
    values.pop("gateway_id")
    return Device(**values | fields)


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """The addresses of an empty SQLite and, where it is installed, an empty PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="fleet-ota-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        settings.STORAGES = settings.STORAGES | {
            "default": env.storage("", f"file://{folder}/media", path)
        }
        found = {"SQLite": f"sqlite:///{folder}/fleet.sqlite3"}
        (path / "postgres").mkdir()
        server = servers.postgres(path / "postgres").start()
        try:
            yield found | {"PostgreSQL": server.url}
        finally:
            connections.close_all()
            server.end()


def use(url: str) -> None:
    """Opens the database of this address from now on, with all tables."""
    os.environ["DATABASE_URL"] = url
    connections.close_all()
    del connections["default"]
    connections.settings["default"] = env.database("DATABASE_URL", "", Path())
    connections.settings = connections.configure_settings(connections.settings)
    call_command("migrate", verbosity=0)


def main() -> None:
    docks = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    table = Table(
        "database", "docks", "work", "queries", "seconds", "peer's queries", "peer / ours"
    )
    with databases() as found:
        for name, url in found.items():
            use(url)
            make_fleet(docks)
            peer = measure(one_by_one)
            for work in (preview, launch):
                ours = measure(work)
                ratio = f"{peer.seconds / ours.seconds:.1f}"
                table.add_row(
                    name, str(docks), work.__name__, str(ours.queries), f"{ours.seconds:.2f}",
                    str(peer.queries), ratio,
                )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
