"""The history of upgrades as it grows: bytes a line, speed with many lines, and folding.

Filled by SQL; what is timed goes the product's own way. Peers: the same with few lines; keys at
random, as a plain hash or UUID is; and on PostgreSQL a month as a partition that is dropped.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterable
from statistics import median

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks import ground, results
from benchmarks.results import Result, Size
from database import bulk
from ota.models import TaskEvent, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import folding
from tests.make import make_dock, make_task

TOPIC = "history"
FEW, MANY = 100_000, 1_000_000
LINES = 100  # of a task
BATCH, BATCHES = 500, 20
STEPS, TURNS = 50, 5  # of folding in a turn
RARE = 10  # one line in so many is none of progress, as a status or a command

_FILL = {
    "postgresql": """
        INSERT INTO ota_taskevent (task_id, at, kind, key, reported_at, tid, bid, from_status,
            to_status, device_status, percent, step, rate, result, is_late, text)
        SELECT {task} + i / {lines}, at, CASE WHEN i % {rare} = 0 THEN 'status' ELSE 'progress' END,
            (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
                || substr(md5(i::text), 1, 20))::uuid,
            at, gen_random_uuid()::text, gen_random_uuid()::text, '', '', 'in_progress',
            i % 100, 'download_firmware', 1048576, 0, false, ''
        FROM (SELECT i, to_timestamp({start}) + i * interval '{apart} seconds' AS at
              FROM generate_series({first}, {last}) AS i) AS line""",
    "sqlite": """
        WITH RECURSIVE line(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM line WHERE i < {last})
        INSERT INTO ota_taskevent (task_id, at, kind, key, reported_at, tid, bid, from_status,
            to_status, device_status, percent, step, rate, result, is_late, text)
        SELECT {task} + i / {lines}, strftime('%Y-%m-%d %H:%M:%f', {start} + i * {apart}, 'unixepoch'),
            CASE WHEN i % {rare} = 0 THEN 'status' ELSE 'progress' END,
            printf('%012x', CAST(({start} + i * {apart}) * 1000 AS INTEGER)) || lower(hex(randomblob(10))),
            strftime('%Y-%m-%d %H:%M:%f', {start} + i * {apart}, 'unixepoch'),
            lower(hex(randomblob(18))), lower(hex(randomblob(18))), '', '', 'in_progress',
            i % 100, 'download_firmware', 1048576, 0, 0, ''
        FROM line""",
}


def run(size: Size) -> Iterable[Result]:
    few, many = (2_000, 4_000) if size is Size.SMALL else (FEW, MANY)
    with ground.folder() as path, ground.databases(path, size) as found:
        for name, url in found.items():
            ground.use(url)
            yield from grown(name, few, many, size)


def grown(database: str, few: int, many: int, size: Size) -> Iterable[Result]:
    """A history of few lines, and the same with many."""
    history = History(many)
    history.fill(few)
    inserts, pages = history.inserts(size), history.pages(size)
    history.fill(many)
    yield Result(
        TOPIC, f"a line with its indexes, {database}", history.bytes_of_a_line(), unit="bytes"
    )
    later, later_pages = history.inserts(size), history.pages(size)
    at_random = history.inserts(size, key=history.at_random)
    title = f"with {many:,} lines, {database}"
    few_lines = f"with {few:,} lines"
    yield _result(f"lines written {title}", later, few_lines, inserts, "lines/s", ">= 0.8 x")
    yield _result(f"lines written {title}", later, "keys at random", at_random, "lines/s")
    yield _result(f"a page of a task's history {title}", later_pages, few_lines, pages, "ms")
    if connection.vendor == "postgresql":
        yield from history.log(title)
    yield from history.folding(database, size)


def _result(
    what: str, ours: list[float], peer_name: str, peer: list[float], unit: str, goal: str = ""
) -> Result:
    ratio = results.ratio(ours, peer, less_is_better=unit == "ms")
    return Result(TOPIC, what, median(ours), peer_name, median(peer), unit, ratio, goal)


class History:
    """Tasks that have ended, and lines that are written to them in the order of time."""

    def __init__(self, lines: int) -> None:
        self.now = timezone.now()
        dock = make_dock()
        first = make_task(dock, status=TaskStatus.OK, finished_at=self.now)
        self.first, self.lines = first.pk, 0
        fields = {f.attname: getattr(first, f.attname) for f in UpgradeTask._meta.concrete_fields}
        fields.pop("id")
        number = (lines + (TURNS + 1) * STEPS * folding.AT_ONCE) // LINES + BATCH
        bulk.insert(UpgradeTask(**fields | {"bid": str(uuid.uuid4())}) for _ in range(number))
        # Half of them are old enough to be folded.
        span = settings.EVENT_DAYS * 2 * 86400
        self.start, self.apart = self.now.timestamp() - span, span / lines

    def fill(self, number: int) -> None:
        """Lines up to so many."""
        values = {"task": self.first, "lines": LINES, "rare": RARE, "start": self.start}
        values |= {"apart": self.apart, "first": self.lines, "last": number - 1}
        with connection.cursor() as cursor:
            cursor.execute(_FILL[connection.vendor].format(**values))
            cursor.execute("ANALYZE")
        self.lines = number

    def bytes_of_a_line(self) -> float:
        sql = "SELECT pg_total_relation_size('ota_taskevent')"
        if connection.vendor == "sqlite":
            sql = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = 'ota_taskevent')"
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return float(cursor.fetchone()[0]) / TaskEvent.objects.count()

    def inserts(self, size: Size, key: Callable[[], uuid.UUID] | None = None) -> list[float]:
        """Lines a second in committed batches, as the bridge writes them."""
        return [self._insert(key or _rising) for _ in range(size.rounds)]

    def _insert(self, key: Callable[[], uuid.UUID]) -> float:
        started = time.perf_counter()
        for _ in range(BATCHES):
            with transaction.atomic():
                bulk.insert(
                    (_line(self.first + i, key()) for i in range(BATCH)), ignore_conflicts=True
                )
        return BATCH * BATCHES / (time.perf_counter() - started)

    def at_random(self) -> uuid.UUID:
        """A key anywhere in the index, as all keys would be if they were hashes only."""
        return _key(random.uniform(self.start, self.now.timestamp()))  # noqa: S311 (no secret)

    def pages(self, size: Size) -> list[float]:
        """Milliseconds for what a task's page asks of the history; the median of many tasks."""
        return [
            median(_milliseconds(self.first + i * 7) for i in range(50)) for _ in range(size.rounds)
        ]

    def log(self, title: str) -> Iterable[Result]:
        """What PostgreSQL writes ahead for a line, right after a checkpoint."""
        ours, peer = (self._logged(key) for key in (_rising, self.at_random))
        yield Result(
            TOPIC,
            f"written ahead for a line {title}",
            ours,
            "keys at random",
            peer,
            "bytes",
            peer / ours,
        )

    def _logged(self, key: Callable[[], uuid.UUID]) -> float:
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
            cursor.execute("SELECT pg_current_wal_lsn()")
            before = cursor.fetchone()[0]
            self._insert(key)
            cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)", [before])
            return float(cursor.fetchone()[0]) / (BATCH * BATCHES)

    def folding(self, database: str, size: Size) -> Iterable[Result]:
        """Steps of folding, how long the longest holds its locks, and what is left of the room."""
        before = self._room()
        seconds = self._steps(5 if size is Size.SMALL else STEPS)
        rate = folding.AT_ONCE / median(seconds)
        yield Result(
            TOPIC,
            f"lines folded, {database}",
            rate,
            unit="lines/s",
            note="of a million a day, 12 a second fall due",
        )
        yield Result(
            TOPIC,
            f"longest step of folding, {database}",
            max(seconds) * 1000,
            unit="ms",
            goal="<= 1000",
        )
        if connection.vendor == "postgresql" and size is Size.FULL:
            yield self._against_partition(seconds)
            yield self._turnover(before)

    def _steps(self, number: int) -> list[float]:
        found = []
        for _ in range(number):
            started = time.perf_counter()
            if not folding.step(self.now):
                break
            found.append(time.perf_counter() - started)
        return found

    def _against_partition(self, steps: list[float]) -> Result:
        """The same lines in a partition: added up, the rest copied, dropped."""
        lines = len(steps) * folding.AT_ONCE
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE month AS SELECT * FROM ota_taskevent LIMIT %s", [lines])
            started = time.perf_counter()
            cursor.execute(
                "CREATE TABLE folded AS SELECT task_id, device_status, result, count(*), min(at), max(at)"
                " FROM month WHERE kind = 'progress' GROUP BY 1, 2, 3"
            )
            cursor.execute("CREATE TABLE kept AS SELECT * FROM month WHERE kind <> 'progress'")
            cursor.execute("DROP TABLE month")
            dropped = time.perf_counter() - started
        note = "once in a line's life; the rest of its cost is in writing it"
        return Result(
            TOPIC, "folding a line, PostgreSQL", sum(steps) / lines * 1e6, "a dropped partition",
            dropped / lines * 1e6, "us", dropped / sum(steps), note=note,
        )  # fmt: skip

    def _turnover(self, before: float) -> Result:
        """As many lines come as go: how much room the table takes in the end."""
        for _ in range(TURNS):
            count = len(self._steps(STEPS)) * folding.AT_ONCE
            self.fill(self.lines + count)
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ota_taskevent")  # what the server does by itself
        return Result(
            TOPIC, "room after a turnover of lines, PostgreSQL", self._room() / 1e6, "before",
            before / 1e6, "MB", before / self._room(), ">= 0.9 x",
        )  # fmt: skip

    def _room(self) -> float:
        if connection.vendor != "postgresql":
            return 0.0
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_total_relation_size('ota_taskevent')")
            return float(cursor.fetchone()[0])


def _rising() -> uuid.UUID:
    return _key(time.time())


def _key(seconds: float) -> uuid.UUID:
    """As ``Message.digest`` makes them."""
    return uuid.UUID(bytes=int(seconds * 1000).to_bytes(6, "big") + uuid.uuid4().bytes[:10])


def _line(task: int, key: uuid.UUID) -> TaskEvent:
    now = timezone.now()
    return TaskEvent(
        task_id=task, at=now, kind=TaskEvent.Kind.PROGRESS, key=key, reported_at=now,
        tid=str(uuid.uuid4()), bid=str(uuid.uuid4()), device_status="in_progress",
        percent=5, step="download_firmware", rate=1_048_576, result=0,
    )  # fmt: skip


def _milliseconds(task: int) -> float:
    started = time.perf_counter()
    events: QuerySet[TaskEvent] = TaskEvent.objects.filter(task=task)
    events.count()
    list(events.select_related("actor").order_by("pk")[:100])
    return (time.perf_counter() - started) * 1000
