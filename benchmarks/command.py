"""Commands to ten thousand docks, from ready rows to the broker's acknowledgement: ``python -m benchmarks.command [docks]``.

A real worker with two processes, a real broker and Redis. Ours judges each task once more, marks
it sent with its history and commits before it publishes. The peers are bare paho in one process,
which publishes what was made before and touches no row, and one Celery task for each device.
"""

import datetime as dt
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from django.conf import settings
from django.test import override_settings
from django.utils import timezone
from kombu import pools
from rich.console import Console

from benchmarks import ground, machine, publishing, results, rows
from benchmarks.results import Result, Size
from config.celery import app
from fleet.models import Device
from mqtt_bridge import topics
from mqtt_bridge.models import BridgeSession
from ota import rollouts, tasks
from ota.models import TaskEvent, UpgradeTask
from ota.rollouts import Options
from ota.states import TaskStatus
from ota.upgrades import issue
from tests import servers
from tests.processes import Processes, Running

TOPIC = "command"
SMALL, DOCKS = 60, 10_000
# One task for each device takes milliseconds: so many tell its rate.
SHARED, SINGLE = 1000, 300
PEERS = "peers"  # their queue
PATIENCE = 300  # s
PAYLOAD = 1000  # bytes, about what a command for two devices has


class Place(NamedTuple):
    """The servers and workers of a run: ours, and the peer's with one task for each device."""

    broker: str
    ours: Running
    peer: Running


class Rates(NamedTuple):
    """Commands a second in one round."""

    ours: float
    bare: float
    shared: float
    single: float


def run(size: Size) -> Iterable[Result]:
    yield from measured(size, SMALL if size is Size.SMALL else DOCKS)


def measured(size: Size, docks: int) -> Iterable[Result]:
    with ground.folder() as path, ground.databases(path, size) as found, running(path) as broker:
        for database, url in found.items():
            ground.use(url)
            make_ready(docks)
            with workers(path, url, broker) as place:
                one_round(place, 20)  # opens the connections
                before = machine.processor(place.ours.pid)
                rounds = [one_round(place, docks) for _ in range(size.rounds)]
                used = machine.processor(place.ours.pid) - before
                yield from compared(database, docks, rounds, used / docks / size.rounds)
                memory = machine.memory(place.ours.pid)
            what = f"memory of the worker's three processes at their peak, {database}"
            yield Result(TOPIC, what, memory, unit="MB", goal="<= 300")


def compared(database: str, docks: int, rounds: Sequence[Rates], used: float) -> Iterable[Result]:
    what = f"commands to {docks:,} docks, a second, rows and all, {database}"
    ours = [rates.ours for rates in rounds]
    peers: list[tuple[str, list[float], str]] = [
        ("bare paho, no rows", [rates.bare for rates in rounds], ">= 1.0 x"),
        ("a task a device, one connection", [rates.shared for rates in rounds], ">= 25 x"),
        ("a task and a connection a device", [rates.single for rates in rounds], ">= 25 x"),
    ]
    note = f"{used * 1e6:.0f} us of the worker's processor time a command"
    for name, peer, goal in peers:
        ratio = results.ratio(ours, peer)
        yield Result(TOPIC, what, median(ours), name, median(peer), "/s", ratio, goal, note)
    sent = UpgradeTask.objects.filter(status=TaskStatus.SENT).count()
    if sent != docks:
        raise RuntimeError(f"{sent} of {docks} commands were sent")
    confirmed = sent - TaskEvent.objects.filter(kind=TaskEvent.Kind.NOTE).count()
    if confirmed != docks:
        raise RuntimeError(f"the broker confirmed {confirmed} of {docks} commands")
    yield Result(
        TOPIC, f"commands that the broker confirmed, {database}", confirmed, "docks", docks
    )


def one_round(place: Place, docks: int) -> Rates:
    """Each side once, ours last, so that its rows can be looked at."""
    pks = list(UpgradeTask.objects.order_by("pk").values_list("pk", flat=True)[:docks])
    sns = UpgradeTask.objects.order_by("pk").values_list("gateway__sn", flat=True)[:docks]
    outgoing = [(topics.services(sn), b"x" * PAYLOAD) for sn in sns]
    bare = docks / publishing.bare(place.broker, outgoing)
    shared = _peer(place, publishing.over_one_connection, pks[:SHARED])
    single = _peer(place, publishing.over_its_own_connection, pks[:SINGLE])
    reset()
    chunks = [pks[start : start + tasks.CHUNK] for start in range(0, len(pks), tasks.CHUNK)]
    seconds = _timed(place.ours, chunks, tasks.issue, "celery")
    return Rates(docks / seconds, bare, shared, single)


def _peer(place: Place, work: Any, pks: Sequence[int]) -> float:
    reset()
    return len(pks) / _timed(place.peer, pks, work, PEERS)


def _timed(worker: Running, calls: Sequence[Any], work: Any, queue: str) -> float:
    """Seconds from the first call to the end of the last one, as the worker's log tells it."""
    with worker.log.open() as log:
        log.seek(0, 2)
        began, ended = time.perf_counter(), 0
        for call in calls:
            work.apply_async((call,), queue=queue)
        while ended < len(calls):
            if time.perf_counter() > began + PATIENCE:
                raise TimeoutError(f"{ended} of {len(calls)} ended: {worker.output[-2000:]}")
            time.sleep(0.01)
            ended += log.read().count(" succeeded in ")
        return time.perf_counter() - began


def make_ready(docks: int) -> None:
    """A rollout whose tasks were all looked at and wait for nothing."""
    rows.make_fleet(docks)
    BridgeSession.objects.update(seen_at=timezone.now() + dt.timedelta(days=1))
    options = Options(policy={"limit_in_flight": docks})
    rollouts.launch(Device.objects.all(), options, timezone.now())
    while UpgradeTask.objects.filter(checked_at=None).exists():
        issue.look_again(timezone.now())
    assert len(issue.due(timezone.now())) == docks  # noqa: S101 (else nothing is measured)


def reset() -> None:
    """As if nothing had been sent yet."""
    TaskEvent.objects.all().delete()
    UpgradeTask.objects.update(status=TaskStatus.PENDING, attempt=0, sent_at=None)


@contextmanager
def running(path: Path) -> Iterator[str]:
    """A broker and a Redis, the latter in the settings; yields the broker's address."""
    for name in ("mosquitto", "redis"):
        (path / name).mkdir()
    broker = servers.mosquitto(path / "mosquitto").start()
    redis = servers.redis(path / "redis").start()
    layer = settings.CHANNEL_LAYERS["default"] | {"CONFIG": {"hosts": [redis.url]}}
    before = app.conf.broker_url
    app.conf.update(broker_url=redis.url)
    try:
        with override_settings(REDIS_URL=redis.url, CHANNEL_LAYERS={"default": layer}):
            yield broker.url
    finally:
        app.conf.update(broker_url=before)
        pools.reset()
        redis.end()
        broker.end()


@contextmanager
def workers(path: Path, database: str, broker: str) -> Iterator[Place]:
    environment = {
        "DJANGO_SETTINGS_MODULE": "benchmarks.loud",
        "SECRET_KEY": settings.SECRET_KEY,
        "DATABASE_URL": database,
        "REDIS_URL": settings.REDIS_URL,
        "MQTT_URL": broker,
        "STORAGE_URL": f"file://{path}/media",
    }
    processes = Processes(environment, Path(tempfile.mkdtemp(dir=path)), 0, 0)
    try:
        yield Place(broker, processes.worker(), _peers_worker(processes))
    finally:
        with suppress(ExceptionGroup):  # on a busy machine a worker takes its time and is killed
            processes.end_all()


def _peers_worker(processes: Processes) -> Running:
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.publishing", "worker"]
    command += ["--concurrency", "2", "--loglevel", "INFO", "--queues", PEERS]
    command += ["--hostname", "peer@%h"]
    return processes.start("peer", command, lambda worker: "ready." in worker.output)


def main() -> None:
    docks = int(sys.argv[1]) if len(sys.argv) > 1 else DOCKS
    Console().print(results.table(measured(Size.FULL, docks)))


if __name__ == "__main__":
    main()
