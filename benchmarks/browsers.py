"""Browsers on one rollout while its tasks change: ``python -m benchmarks.browsers [browsers]``.

Rows change and are announced in a process of their own, as a bridge does it; daphne serves one
rollout to all browsers. The peer is a consumer that sends each update on at once, with as many
updates a second as it can bear; ours is measured once more with so many. Processor time is
daphne's; an age is the time from the change of a row to the browser that has its frame.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from django.test import Client
from django.utils import timezone
from rich.console import Console

from benchmarks import ground, machine, results, rows, watching
from benchmarks.results import Result, Size
from database import bulk
from demo import checks, commands, ports
from fleet.models import Device
from ota import live, rollouts
from ota.models import UpgradeTask
from ota.rollouts import Options
from ota.states import TaskStatus
from tests import servers
from tests.people import log_in
from tests.processes import Processes, Running, eventually

TOPIC = "browsers"
# More than this a second drowns the peer: with 200 browsers they are 8,000 frames.
PEERS_UPDATES = 40
COLUMNS = ("rate", "percent")
EVERY = 0.05  # s, between two batches of changes


class Scale(NamedTuple):
    """So many browsers, tasks, updates a second, for so many seconds."""

    browsers: int
    tasks: int
    updates: int
    seconds: float


class Figure(NamedTuple):
    """Of one side in one round: daphne's share of a core, updates announced, and what came."""

    share: float
    updates: int
    most: float  # frames a second of the browser that got most
    age: float  # s, p99

    def cost(self, seconds: float) -> float:
        """Daphne's processor time an update, us."""
        return 1e6 * self.share * seconds / self.updates


class Round(NamedTuple):
    """Ours at full rate and at the peer's, and the peer."""

    ours: Figure
    slow: Figure
    peer: Figure


def run(size: Size) -> Iterable[Result]:
    small, full = Scale(5, 50, 200, 2), Scale(200, 10_000, 5000, 10)
    yield from measured(small if size is Size.SMALL else full, size)


def measured(scale: Scale, size: Size) -> Iterable[Result]:
    with ground.folder() as path, ground.databases(path, size) as found:
        database, url = list(found.items())[-1]
        ground.use(url)
        rows.make_fleet(scale.tasks)
        options = Options(policy={"limit_in_flight": scale.tasks})
        rollout, _ = rollouts.launch(Device.objects.all(), options, timezone.now())
        UpgradeTask.objects.update(status=TaskStatus.IN_PROGRESS)
        with everything(path, url) as (web, peer):
            rounds = [one_round(scale, rollout.pk, web, peer) for _ in range(size.rounds)]
            memory = machine.memory(web.pid)
    yield from compared(scale, database, rounds, memory)


def compared(scale: Scale, database: str, rounds: list[Round], memory: float) -> Iterable[Result]:
    ours = [one.ours for one in rounds]
    what = f"{scale.browsers} browsers, {scale.tasks:,} tasks"
    share = median(figure.share for figure in ours)
    yield Result(
        TOPIC,
        f"daphne's share of a core: {what}, {scale.updates:,} updates a second, {database}",
        share,
        unit="cores",
        goal="<= 0.5",
        note=f"without a peer: one that sends each on drowns at more than {PEERS_UPDATES} a second",
    )
    yield slowly(scale, f"{what}, {PEERS_UPDATES} updates a second, {database}", rounds)
    age = 1000 * median(figure.age for figure in ours)
    yield Result(TOPIC, "age of a change in the browser, p99", age, unit="ms", goal="<= 500")
    most = max(figure.most for figure in ours)
    yield Result(
        TOPIC, "frames a second, of the browser that got most", most, unit="/s", goal="<= 4.5"
    )
    yield Result(TOPIC, "memory of daphne at its peak", memory, unit="MB")


def slowly(scale: Scale, what: str, rounds: list[Round]) -> Result:
    """Both sides with as few updates as the peer can bear."""
    ours = [one.slow.cost(scale.seconds) for one in rounds]
    peer = [one.peer.cost(scale.seconds) for one in rounds]
    ratio = results.ratio(ours, peer, less_is_better=True)
    title = f"daphne's processor time an update: {what}"
    return Result(TOPIC, title, median(ours), "each sent on", median(peer), "us", ratio)


def one_round(scale: Scale, rollout: int, web: Running, peer: Running) -> Round:
    path, few = f"/ws/rollouts/{rollout}/", scale._replace(updates=PEERS_UPDATES)
    return Round(
        watched(web, path, scale, lambda until: change(scale, until)),
        watched(web, path, few, lambda until: change(few, until)),
        watched(peer, "/each/", few, lambda until: tell_each(until)),
    )


def watched(web: Running, path: str, scale: Scale, work: Callable[[float], int]) -> Figure:
    """Lets browsers watch while the work goes on; it returns how many updates it made."""
    client = Client()
    log_in(client, "Operators")
    headers = {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
    headers["Origin"] = f"http://{ports.HOST}"
    address = f"ws://{ports.HOST}:{web.environment['PORT']}{path}"
    ready = Path(tempfile.mkdtemp(dir=web.log.parent)) / "ready"
    plan = watching.Plan(address, headers, scale.browsers, scale.seconds, ready)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        job = pool.submit(watching.watch, plan)
        eventually(lambda: ready.exists() or job.done(), "all browsers", 180)
        before, began = machine.processor(web.pid), time.monotonic()
        updates = work(began + scale.seconds)
        share = (machine.processor(web.pid) - before) / (time.monotonic() - began)
        seen = job.result()
    ages = sorted(age for one in seen for age in one.ages)
    age = ages[math.ceil(0.99 * len(ages)) - 1] if ages else math.nan
    return Figure(share, updates, max(one.frames for one in seen) / scale.seconds, age)


def change(scale: Scale, until: float) -> int:
    """Changes rows and announces them, all in turn; each carries the time as its rate, in ms."""
    tasks = list(UpgradeTask.objects.order_by("pk").values_list("rollout_id", "pk"))
    batch, made = max(int(scale.updates * EVERY), 1), 0
    while time.monotonic() < until:
        began = time.monotonic()
        chosen = [tasks[(made + place) % len(tasks)] for place in range(min(batch, len(tasks)))]
        values = {"rate": int(time.time() * 1000), "percent": made % 100}
        with transaction.atomic():
            bulk.update(UpgradeTask, COLUMNS, {pk: values for _, pk in chosen})
            live.announce(chosen)
        made += len(chosen)
        time.sleep(max(EVERY - (time.monotonic() - began), 0))
    return made


def tell_each(until: float) -> int:
    """The peer's updates: a message for each."""
    made, layer = 0, get_channel_layer()
    assert layer  # noqa: S101
    while time.monotonic() < until:
        row = {"id": made, "rate": int(time.time() * 1000), "percent": made % 100}
        async_to_sync(layer.group_send)(watching.GROUP, {"type": "update", "task": row})
        made += 1
        time.sleep(1 / PEERS_UPDATES)
    return made


@contextmanager
def everything(path: Path, database: str) -> Iterator[tuple[Running, Running]]:
    """Redis and two daphnes: with our pages, and with the peer's."""
    (path / "redis").mkdir()
    redis = servers.redis(path / "redis").start()
    settings.REDIS_URL = redis.url
    layer = settings.CHANNEL_LAYERS["default"]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {"hosts": [redis.url]}}}
    environment = {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SECRET_KEY": settings.SECRET_KEY,
        "DATABASE_URL": database,
        "REDIS_URL": redis.url,
        "STORAGE_URL": f"file://{path}/media",
    }
    processes = Processes(environment, path, 0, 0)
    try:
        yield (
            daphne(processes, "config.asgi:application"),
            daphne(processes, "benchmarks.each:application"),
        )
    finally:
        processes.end_all()
        redis.end()


def daphne(processes: Processes, application: str) -> Running:
    port = ports.free()
    command = commands.web(port, application)
    address = f"http://{ports.HOST}:{port}/healthz"
    values = {"PORT": str(port)}
    return processes.start("daphne", command, lambda _: checks.http_answers(address), values)


def main() -> None:
    browsers = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    scale = Scale(browsers, 10_000, 5000, 10)
    Console().print(results.table(measured(scale, Size.FULL)))


if __name__ == "__main__":
    main()
