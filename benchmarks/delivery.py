"""Firmware to many docks, from our process and from nginx: ``python -m benchmarks.delivery [MB] [clients]``.

So many clients at 1 MB/s and one at 20 KB/s fetch one file in ranges and lose the line now and
then; afterwards eight as fast as they can. First from our firmware process, with limits and
accounting on, then the same clients from nginx, which sends the file as a static one. Every
client checks what it has by its md5.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from rich.console import Console

from benchmarks import docks, ground, machine, results
from benchmarks.docks import Job, Outcome
from benchmarks.results import Result, Size
from demo import ports
from ota import delivery
from ota.models import Download, FirmwarePackage
from ota.states import TaskStatus
from tests import servers
from tests.make import make_rollout, make_task
from tests.processes import Processes, Running, eventually

TOPIC = "delivery"
MB = 1_000_000
RATE, SLOW = MB, 20_000  # bytes a second
FAST = 8  # clients without a limit
CORES = 2  # processes of clients


class Place(NamedTuple):
    """All that the benchmark starts, and the addresses of the file, one for each client."""

    package: FirmwarePackage
    content: Path
    ours: list[str]
    nginx: str
    firmware: Running


class Figure(NamedTuple):
    """What the clients got in all, in bytes and seconds, and whether each has the right bytes."""

    bytes: int
    seconds: float
    right: int
    clients: int
    cuts: int

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds / MB


def measure(urls: list[str], place: Place, rates: list[int]) -> Figure:
    size = place.package.size
    # The slow one ends when the others must have ended.
    seconds = 1.15 * size / RATE + 30 if all(rates) else 3600.0
    limits = [size / RATE if rate == SLOW else seconds for rate in rates]
    jobs = [
        Job(url, size, rate, seed, limit)
        for seed, (url, rate, limit) in enumerate(zip(urls, rates, limits, strict=True))
    ]
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        list(pool.map(docks.fetch, [[], []]))  # started before the time counts
        began = time.monotonic()
        outcomes = [
            outcome
            for part in pool.map(docks.fetch, [jobs[core::CORES] for core in range(CORES)])
            for outcome in part
        ]
        took = time.monotonic() - began
    right = sum(_is_right(outcome, place) for outcome in outcomes)
    got, cuts = sum(one.got for one in outcomes), sum(one.cuts for one in outcomes)
    return Figure(got, took, right, len(outcomes), cuts)


def _is_right(outcome: Outcome, place: Place) -> bool:
    if outcome.got == place.package.size:
        return outcome.md5 == place.package.md5
    with place.content.open("rb") as file:
        found = hashlib.md5(file.read(outcome.got), usedforsecurity=False).hexdigest()
    return outcome.md5 == found and 0 < outcome.got < place.package.size


@contextmanager
def everything(size: int, clients: int) -> Iterator[Place]:
    with ground.folder() as path:
        for name in ("redis", "nginx"):
            (path / name).mkdir()
        redis = servers.redis(path / "redis").start()
        package, content = make_file(path, size)
        urls = [url_of(package) for _ in range(clients)]
        # The slow client takes minutes for what the kernel holds; nginx would give it up after one.
        static = f"location / {{ root {path}/media; send_timeout 15m; }}"
        nginx = servers.nginx(path / "nginx", static).start()
        processes = Processes(_environment(path, redis.url), path, 0, ports.free())
        settings.FIRMWARE_URL = f"http://{ports.HOST}:{processes.firmware_port}"
        urls = [delivery_url(url) for url in urls]
        try:
            firmware = processes.firmware()
            yield Place(package, content, urls, f"{nginx.url}/{package.file.name}", firmware)
        finally:
            connections.close_all()
            processes.end_all()
            nginx.end()
            redis.end()


def delivery_url(url: str) -> str:
    return settings.FIRMWARE_URL + url[url.index("/firmware/") :]


def _environment(path: Path, redis_url: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SECRET_KEY": settings.SECRET_KEY,
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "REDIS_URL": redis_url,
        "STORAGE_URL": f"file://{path}/media",
        # Both limits are on, and too high to matter.
        "FIRMWARE_BYTES_PER_SECOND": str(10**9),
        "FIRMWARE_DOWNLOADS": "1000",
    }


def make_file(path: Path, size: int) -> tuple[FirmwarePackage, Path]:
    """A package of so many random bytes in an empty database and an empty folder."""
    ground.use(f"sqlite:///{path}/fleet.sqlite3")
    content, digest = (
        path / "media" / "firmware" / "package.zip",
        hashlib.md5(usedforsecurity=False),
    )
    content.parent.mkdir(parents=True)
    with content.open("wb") as file:
        for _ in range(size // MB):
            digest.update(piece := os.urandom(MB))
            file.write(piece)
    package = FirmwarePackage.objects.create(
        file="firmware/package.zip", file_name="package.zip", version="10.01.3205",
        size=size, md5=digest.hexdigest(), sha256="0" * 64, state=FirmwarePackage.State.AVAILABLE,
    )  # fmt: skip
    return package, content


def url_of(package: FirmwarePackage) -> str:
    task = make_task(rollout=make_rollout(), status=TaskStatus.SENT, version=package.version)
    return delivery.link(task.pk, package)


def run(size: Size) -> Iterable[Result]:
    yield from compared(2, 2, size) if size is Size.SMALL else compared(70, 50, size)


def compared(megabytes: int, clients: int, size: Size) -> Iterable[Result]:
    """Many clients at a docks' rate, and then a few as fast as they can."""
    rates = [RATE] * clients + [SLOW]
    with everything(megabytes * MB, max(clients + 1, FAST)) as place:
        what = f"{clients} clients at 1 MB/s and one at 20 KB/s, {megabytes} MB each"
        slow = in_turns(place, rates, 1)
        yield result(what, slow, ">= 0.5 x")
        yield Result(
            TOPIC,
            f"memory of the firmware process: {what}",
            machine.memory(place.firmware.pid),
            unit="MB",
            goal="<= 150",
        )
        fast = in_turns(place, [0] * FAST, size.rounds)
        yield result(f"{FAST} clients without a limit", fast, ">= 0.5 x")
        yield Result(
            TOPIC,
            "memory of the firmware process at its peak",
            machine.memory(place.firmware.pid),
            unit="MB",
            goal="<= 150",
        )
        eventually(lambda: Download.objects.count() >= clients + 1, "the count of all downloads")
        yield counted([ours for ours, _ in slow + fast])


def in_turns(place: Place, rates: list[int], rounds: int) -> list[tuple[Figure, Figure]]:
    """What the clients got from us and from nginx in each round."""
    number = len(rates)
    ours, static = place.ours[:number], [place.nginx] * number
    return [(measure(ours, place, rates), measure(static, place, rates)) for _ in range(rounds)]


def result(what: str, rounds: list[tuple[Figure, Figure]], goal: str) -> Result:
    ours, peer = ([figure.rate for figure in side] for side in zip(*rounds, strict=True))
    figures = [figure for both in rounds for figure in both]
    right, clients = sum(one.right for one in figures), sum(one.clients for one in figures)
    if right != clients:
        raise RuntimeError(f"{what}: {clients - right} of {clients} clients have wrong bytes")
    note = f"all bytes right at {clients} clients, after {sum(one.cuts for one in figures)} cuts"
    ratio = results.ratio(ours, peer)
    return Result(TOPIC, what, median(ours), "nginx", median(peer), "MB/s", ratio, goal, note)


def counted(figures: list[Figure]) -> Result:
    """What the tasks say was fetched, beside what the clients kept."""
    served = sum(Download.objects.values_list("bytes_served", flat=True)) / MB
    taken = sum(figure.bytes for figure in figures) / MB
    return Result(TOPIC, "counted to the tasks", served, "kept by the clients", taken, "MB")


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    megabytes, clients = (*numbers, *(700, 50)[len(numbers) :])
    Console().print(results.table(compared(megabytes, clients, Size.FULL)))


if __name__ == "__main__":
    main()
