"""What the bridge takes in, beside a subscriber that throws everything away: ``python -m benchmarks ingest``.

The bridge is the real process over a real broker and database. What it takes waits for it in its
session at the broker, so that the load does not run meanwhile; the time counts from the first
message to the commit of the last. The peer takes the same messages the same way. PostgreSQL
flushes each commit to the disk; SQLite writes ahead and survives the death of the process.
"""

import datetime as dt
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Min, QuerySet
from django.utils import timezone

from benchmarks import ground, load, machine, results
from benchmarks.results import Result, Size
from benchmarks.rows import make_fleet
from fleet.models import Device
from mqtt_bridge import topics
from ota.models import FirmwarePackage, TaskEvent, UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from tests import servers
from tests.make import OLD, make_rollout
from tests.processes import ROOT, Processes, Running

TOPIC = "ingest"
BARE = "bare paho"
GROUPS = 4  # of telemetry that a dock and its aircraft push each two seconds
FIRST, LAST = "FIRSTMARK", "LASTMARK"


class Amounts(NamedTuple):
    """How much of everything, by size."""

    docks: int
    backlog: int
    slow: int  # messages for the slow peers
    seconds: float  # of a load with a rate
    fleet: int


AMOUNTS = {
    Size.SMALL: Amounts(20, 400, 20, 1, 50),
    Size.FULL: Amounts(1000, 40_000, 1000, 10, 10_000),
}


class Drained(NamedTuple):
    """One backlog: how many messages in how many seconds, and what it cost."""

    messages: int
    seconds: float
    cpu: float  # s of the one that takes them
    memory: float = 0  # MB, peak
    batches: int = 0

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cost(self) -> float:
        """Processor time of a message, us."""
        return self.cpu / self.messages * 1e6


class Place:
    """The servers and how to start our processes over them."""

    def __init__(self, path: Path, size: Size) -> None:
        self.size = size
        self.amounts = AMOUNTS[size]
        self._path = path
        for name in ("redis", "broker"):
            (path / name).mkdir()
        self._redis = servers.redis(path / "redis").start()
        self.broker = broker(path / "broker").start()
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.pool.submit(int).result()  # started before any time counts
        self.processes = Processes({}, path, 0, 0)
        self._redis_url = self._redis.url

    def open(self, database: str) -> None:
        ground.use(database)
        self.processes.environment = {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": settings.SECRET_KEY,
            "DATABASE_URL": database,
            "REDIS_URL": self._redis_url,
            "MQTT_URL": self.broker.url,
            "STORAGE_URL": f"file://{self._path}/media",
        }

    def end(self) -> None:
        self.pool.shutdown()
        self.processes.end_all()
        self.broker.end()
        self._redis.end()

    # Loads.

    def fill(self, client_ids: Sequence[str], messages: Sequence[load.Message], qos: int) -> None:
        """Leaves the messages in the sessions, between a mark of the start and one of the end."""
        for client_id in client_ids:
            shared = "fleet" if len(client_ids) > 1 else ""
            load.subscribe(self.broker.url, client_id, topics.subscriptions(shared))
        for part, its_qos in (
            ([mark(f"{FIRST}{number}") for number in range(len(client_ids))], 1),
            ([*messages], qos),
            ([mark(f"{LAST}{number}") for number in range(len(client_ids))], 1),
        ):
            self.pool.submit(load.send, self.broker.url, part, its_qos).result()

    # Those who take.

    def peer(self, name: str, messages: Sequence[load.Message], qos: int) -> Drained:
        client_id = uuid.uuid4().hex
        self.fill([client_id], messages, qos)
        command = [sys.executable, "-m", "benchmarks.peers", name, self.broker.url, client_id]
        done = subprocess.run(  # noqa: S603 (a program of ours)
            [*command, str(len(messages) + 1)],
            cwd=ROOT, env=os.environ | self.processes.environment, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        load.forget(self.broker.url, client_id)
        return Drained(**json.loads(done.stdout))

    def ours(self, messages: Sequence[load.Message], qos: int, *, bridges: int = 1) -> Drained:
        forget()
        names = [uuid.uuid4().hex for _ in range(bridges)]
        self.fill(names, messages, qos)
        group = "fleet" if bridges > 1 else ""
        running = [self.bridge(MQTT_CLIENT_ID=name, MQTT_SHARED_GROUP=group) for name in names]
        first, last = marks(FIRST), marks(LAST)
        wait_for(first.exists)
        before = self.processor(running)
        wait_for(lambda: last.count() == bridges)
        wait_for(lambda: TaskEvent.objects.count() >= len(messages))  # of the other lane
        ended, cpu = time.time(), self.processor(running) - before
        began: dt.datetime = first.aggregate(at=Min("last_seen_at"))["at"]
        memory = max(machine.memory(one.pid) for one in running)
        told = self.end_bridges(running)
        batches = sum(one["batches"] for one in told)
        came_all(len(messages), told)
        for name in names:
            load.forget(self.broker.url, name)
        return Drained(len(messages), ended - began.timestamp(), cpu, memory, batches)

    def awoken(self, messages: Sequence[load.Message], first: int) -> Drained:
        """A bridge that knows the first messages is stopped while all of them arrive at the broker."""
        forget()
        name = uuid.uuid4().hex
        bridge = self.bridge(MQTT_CLIENT_ID=name)
        bridge.wait_for_line("connected to")
        for part, qos in ((messages[:first], 0), ([mark(f"{FIRST}0")], 1)):
            self.pool.submit(load.send, self.broker.url, part, qos).result()
        wait_for(marks(FIRST).exists)
        os.kill(bridge.pid, signal.SIGSTOP)
        for part, qos in ((messages, 0), ([mark(f"{LAST}0")], 1)):
            self.pool.submit(load.send, self.broker.url, part, qos).result()
        began, before = time.time(), self.processor([bridge])
        os.kill(bridge.pid, signal.SIGCONT)
        wait_for(marks(LAST).exists)
        ended, cpu = time.time(), self.processor([bridge]) - before
        memory = machine.memory(bridge.pid)
        (told,) = self.end_bridges([bridge])
        load.forget(self.broker.url, name)
        came_all(len(messages) + first, [told])
        return Drained(len(messages), ended - began, cpu, memory, told["batches"])

    def pour(self, messages: Sequence[load.Message], qos: int, rate: float) -> load.Sent:
        """Sends at a rate, for as long as this size has it."""
        seconds = self.amounts.seconds
        found = self.pool.submit(load.send, self.broker.url, messages, qos, rate, seconds)
        return found.result()

    @staticmethod
    def processor(running: Iterable[Running]) -> float:
        return sum(machine.processor(one.pid) for one in running)

    def bridge(self, **environment: str) -> Running:
        command = [sys.executable, "manage.py", "mqtt_bridge", "--json"]
        return self.processes.start("bridge", command, lambda _: True, environment)

    @staticmethod
    def end_bridges(running: Iterable[Running]) -> list[dict[str, int]]:
        """What each says that it did."""
        for one in running:
            one.terminate()
        return [json.loads(one.output.splitlines()[-1]) for one in running]


def broker(folder: Path) -> servers.Server:
    """As we tell people to set it up; it also keeps telemetry for who is away, to have a backlog."""
    found = servers.mosquitto(folder)
    with (folder / "mosquitto.conf").open("a") as config:
        config.write("queue_qos0_messages true\nset_tcp_nodelay true\n")
    return found


def mark(sn: str) -> load.Message:
    return f"thing/product/{sn}/state", b'{"tid":"t","bid":"b","data":{}}'


def marks(name: str) -> QuerySet[Device]:
    """Devices that come with the marks of that name."""
    return Device.objects.filter(sn__startswith=name)


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def came_all(number: int, told: Iterable[dict[str, int]]) -> None:
    came = sum(one["messages"] for one in told)
    if came < number:
        raise RuntimeError(f"{came} of {number} messages came")


def make_docks(amounts: Amounts) -> None:
    """A fleet, some of whose docks upgrade."""
    make_fleet(amounts.fleet)
    Device.objects.update(last_seen_at=timezone.now())  # from now on they speak for themselves
    rollout = make_rollout()
    wave = rollout.wave_set.get()
    now = timezone.now()
    tasks = UpgradeTask.objects.bulk_create(
        UpgradeTask(
            rollout=rollout, wave=wave, gateway=dock, status=TaskStatus.IN_PROGRESS, status_at=now,
            attempt=1, sent_at=now, replied_at=now,
        )
        for dock in Device.objects.docks().order_by("sn")[: amounts.docks]
    )  # fmt: skip
    package = FirmwarePackage.objects.get()
    UpgradeTarget.objects.bulk_create(
        UpgradeTarget(
            task=task, device=task.gateway, package=package, upgrade_type="regular",
            from_version=OLD, to_version=package.version,
        )
        for task in tasks
    )  # fmt: skip
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def forget() -> None:
    """Each round begins with an empty history, without marks, and without the dead rows of the last."""
    (marks(FIRST) | marks(LAST)).delete()
    TaskEvent.objects.all()._raw_delete("default")
    UpgradeTask.objects.update(progress_at=None, progress_seen_at=None)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE ota_taskevent, ota_upgradetask, fleet_device")
            cursor.execute("CHECKPOINT")


def run(size: Size) -> Iterator[Result]:
    config = "track_commit_timestamp = on\n"
    with ground.folder() as path, ground.databases(path, size, config) as found:
        place = Place(path, size)
        try:
            for name, url in found.items():
                place.open(url)
                make_docks(place.amounts)
                yield progress(place, name)
                yield telemetry(place, name)
            if connection.vendor == "postgresql":
                yield from slow_peers(place)
                yield shared(place)
                yield from latency(place)
                yield from fleet(place)
        finally:
            place.end()


def progress(place: Place, name: str) -> Result:
    """Events of upgrades: QoS 1, acknowledged after the commit, a row of history each."""
    ours, bare = [], []
    for _ in range(place.size.rounds):
        bare.append(place.peer("bare", reports(place.amounts.backlog), 1))
        ours.append(place.ours(reports(place.amounts.backlog), 1))
        check(place.amounts.backlog)
    return compared(f"ota_progress, {name}", ours, BARE, bare, ">= 0.75 x")


def telemetry(place: Place, name: str) -> Result:
    """What docks push: QoS 0, and what is known already, as nearly always."""
    made = load.telemetry(pairs()[: place.amounts.docks], place.amounts.backlog)
    ours, bare = [], []
    for _ in range(place.size.rounds):
        bare.append(place.peer("bare", made, 0))
        ours.append(place.awoken(made, GROUPS * place.amounts.docks))
    return compared(f"osd, {name}", ours, BARE, bare, ">= 0.7 x")


def slow_peers(place: Place) -> Iterator[Result]:
    """Those who read and save a row for each message get fewer of them."""
    few, amounts = reports(place.amounts.slow), place.amounts
    names = {
        "orm": ("a read and a save each", ">= 40 x"),
        "group": ("and a group_send", ">= 120 x"),
        "mqttasgi": ("the same with mqttasgi", ""),
    }
    found: dict[str, list[Drained]] = {name: [] for name in ("ours", *names)}
    for _ in range(place.size.rounds):
        for name in names:
            found[name].append(place.peer(name, few, 1))
        found["ours"].append(place.ours(reports(amounts.backlog), 1))
    for name, (words, goal) in names.items():
        what = f"ota_progress, {connection.display_name}"
        yield compared(what, found["ours"], words, found[name], goal)


def shared(place: Place) -> Result:
    """Two bridges deal the messages out among them; no message is lost or doubled."""
    one, two = [], []
    for _ in range(place.size.rounds):
        one.append(place.ours(reports(place.amounts.backlog), 1))
        two.append(place.ours(reports(place.amounts.backlog), 1, bridges=2))
        check(place.amounts.backlog)
    what = f"ota_progress, two bridges, {connection.display_name}"
    return compared(what, two, "one bridge", one, ">= 1.6 x")


def latency(place: Place) -> Iterator[Result]:
    """From the moment a message goes out to the commit of its row, by PostgreSQL's own clock."""
    for rate, goal in ((1000, "<= 25"), (5000, "<= 50")):
        found = [delayed(place, rate) for _ in range(place.size.rounds)]
        half, most, cores, _ = (statistics.median(values) for values in zip(*found, strict=True))
        late = lateness(max(one.late for one in found))
        note = f"median {half:.0f} ms, {cores:.2f} cores of the bridge; {late}"
        what = f"from publish to commit at {rate:,}/s, 99 of 100, PostgreSQL"
        yield Result(TOPIC, what, most, unit="ms", goal=goal, note=note)


class Delay(NamedTuple):
    """Times in ms; the bridge's cores, and by how many seconds the load fell behind."""

    half: float
    most: float
    cores: float
    late: float


def delayed(place: Place, rate: int) -> Delay:
    forget()
    name = uuid.uuid4().hex
    bridge = place.bridge(MQTT_CLIENT_ID=name)
    bridge.wait_for_line("connected to")
    before = machine.processor(bridge.pid)
    made = load.progress(docks(), 60_000, stamped=True)
    sent = place.pour(made, 1, rate)
    cores = (machine.processor(bridge.pid) - before) / sent.seconds
    check(sent.messages)
    bridge.terminate()
    load.forget(place.broker.url, name)
    return Delay(*percentiles(), cores, sent.late)


def percentiles() -> tuple[float, float]:
    """ms; the median and what 99 of 100 keep below. The commit's flush to the disk comes after it."""
    sql = """SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY
        extract(epoch FROM pg_xact_commit_timestamp(xmin) - reported_at) * 1000) FROM ota_taskevent"""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        half, most = cursor.fetchone()[0]
    return float(half), float(most)


def fleet(place: Place) -> Iterator[Result]:
    """Two bridges take the telemetry of all docks and their aircraft, in groups each two seconds."""
    forget()
    number = place.amounts.fleet
    names = [uuid.uuid4().hex for _ in range(2)]
    bridges = [place.bridge(MQTT_CLIENT_ID=name, MQTT_SHARED_GROUP="fleet") for name in names]
    for bridge in bridges:
        bridge.wait_for_line("connected to")
    osd = load.telemetry(pairs(), number * 4)
    first = place.pour(osd, 0, number * 2)  # many come online with it
    before, began = place.processor(bridges), time.monotonic()
    sent = place.pour(osd, 0, number * 2)
    seconds = time.monotonic() - began
    cores = (place.processor(bridges) - before) / seconds
    memory = max(machine.memory(bridge.pid) for bridge in bridges)
    taken = sum(told["messages"] for told in place.end_bridges(bridges))
    for name in names:
        load.forget(place.broker.url, name)
    what = f"osd of {number:,} docks at {number * 2:,}/s over two bridges"
    late, made = lateness(sent.late), first.messages + sent.messages
    yield Result(TOPIC, f"{what}: their cores", cores, unit="cores", goal="<= 2", note=late)
    # The broker promises nothing for osd, so that some may be lost where a machine is too small.
    note = f"of {made:,}"
    yield Result(TOPIC, f"{what}: messages lost", made - taken, goal="<= 0", note=note)
    yield Result(TOPIC, f"{what}: the larger one", memory, unit="MB", goal="<= 200")


def lateness(seconds: float) -> str:
    """Whether the load was the limit."""
    return f"the load fell behind by {seconds * 1000:.0f} ms at most"


def reports(count: int) -> list[load.Message]:
    return load.progress(docks(), count, stamped=False)


def docks() -> list[tuple[str, str]]:
    """Serial numbers of docks with the ``bid`` of their upgrade."""
    return list(UpgradeTask.objects.order_by("pk").values_list("gateway__sn", "bid"))


def pairs() -> list[tuple[str, str]]:
    """Serial numbers of docks with those of their aircraft."""
    found = Device.objects.filter(gateway__isnull=False).order_by("sn")
    return list(found.values_list("gateway__sn", "sn"))


def check(expected: int) -> None:
    """No message was lost, none left two lines."""
    found, until = 0, time.monotonic() + 30
    while found != expected:
        found = TaskEvent.objects.filter(kind="progress").count()
        if time.monotonic() > until:
            raise RuntimeError(f"{found} messages left a line of history, not {expected}")


def compared(
    what: str, ours: Sequence[Drained], peer_name: str, peer: Sequence[Drained], goal: str
) -> Result:
    rates, others = [one.rate for one in ours], [one.rate for one in peer]
    cost, theirs = (statistics.median(one.cost for one in side) for side in (ours, peer))
    size = statistics.median(one.messages / one.batches for one in ours)
    note = (
        f"processor a message: {cost:.0f} us, peer {theirs:.0f} us; {size:.0f} messages a batch; "
        f"{max(one.memory for one in ours):.0f} MB"
    )
    return Result(
        TOPIC, what, statistics.median(rates), peer_name, statistics.median(others), "messages/s",
        results.ratio(rates, others), goal, note,
    )  # fmt: skip
