"""The same steps with workers that really work at once, each on a connection of its own."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.apps import apps
from django.core.management.color import no_style
from django.db import connection, connections
from django.db.models import Exists, OuterRef
from django.utils import timezone

from mqtt_bridge.client import Outcome
from ota import tasks
from ota.models import TaskEvent
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from tests.make import received
from tests.ota.model.fleet import Said
from tests.ota.model.machine import Model
from tests.ota.model.world import Killed, Work


class Parallel(Model):
    """Two ticks, their chunks and what late workers hold run at once, beside the bridge."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = threading.Lock()
        self.arrived: list[Said] = []

    def clean_database(self) -> contextlib.AbstractContextManager[None]:
        return emptied()

    def publish(self, messages: Any) -> list[Outcome]:
        with self.wire:
            return super().publish(messages)

    def deliver(self, said: Said) -> None:
        """Replies and progress are brought in while the workers work."""
        self.arrived.append(said)

    def bridge(self) -> None:
        for said in self.arrived:
            self.bring_in(received(said.topic, said.payload))

    def tick_now(self, how: str = "go") -> None:
        if how == "keep":
            super().tick_now(how)
            return
        late = [self.kept(self.queue.pop()) for _ in range(len(self.queue))]
        at_once([self.bridge, self.tick_alone, self.tick_alone, *late])
        for said in self.arrived:
            self.take_note(said)
        self.arrived = []

    def tick_alone(self) -> None:
        self.work(tasks.tick(timezone.now()))

    def kept(self, pks: list[int]) -> Work:
        return lambda: self.work(pks)

    def work(self, pks: list[int]) -> None:
        """Every chunk is handed out twice."""
        at_once([lambda: super(Parallel, self).work(pks)] * 2)

    def flying(self) -> UpgradeTaskQuerySet:
        """Without those that took an earlier command this very moment: nobody asks them for a slot."""
        news = TaskEvent.objects.filter(task=OuterRef("pk"), pk__gt=self.last_event)
        taken = news.filter(from_status=TaskStatus.PENDING).exclude(to_status=TaskStatus.SENT)
        return super().flying().exclude(Exists(taken))


def at_once(works: Sequence[Work]) -> None:
    """Runs them in threads; the first error is raised once all have ended."""

    def run(work: Work) -> None:
        try:
            with contextlib.suppress(Killed):
                work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(run, work) for work in works]
    for done in running:
        done.result()


@contextlib.contextmanager
def emptied() -> Iterator[None]:
    try:
        yield
    finally:
        ours = [apps.get_app_config(label) for label in ("mqtt_bridge", "fleet", "ota", "auth")]
        tables = [model._meta.db_table for app in ours for model in app.get_models()]
        connection.ops.execute_sql_flush(
            connection.ops.sql_flush(no_style(), tables, allow_cascade=True)
        )
