"""Time, the broker, the bridge and the workers around the docks of the model."""

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from fleet import telemetry
from mqtt_bridge import pipeline, publisher
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from mqtt_bridge.models import BridgeSession
from mqtt_bridge.pipeline import Read
from ota import steadiness, tasks
from tests.make import envelope, received
from tests.ota.model.choices import START
from tests.ota.model.fleet import Dock, Said

Work = Callable[[], object]


class Killed(BaseException):
    """The process ended after its transaction and before it has sent anything."""


class World:
    """That which takes the commands is not real, and so are the two clocks; all else is."""

    docks: Sequence[Dock]
    session: BridgeSession

    def __init__(self) -> None:
        super().__init__()
        self.counted = 1000.0
        self.exits = contextlib.ExitStack()
        self.clock = self.exits.enter_context(time_machine.travel(START, tick=False))
        self.exits.enter_context(self.clean_database())
        patch = self.exits.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(publisher, "connect", self.connect)
        patch.setattr(publisher, "publish", self.publish)
        patch.setattr(steadiness, "counted", lambda: self.counted)
        self.broker, self.is_listening = "up", True
        self.by_sn: dict[str, Dock] = {}
        self.past: list[Said] = []
        self.late: list[Said] = []
        self.queue: list[list[int]] = []

    def clean_database(self) -> contextlib.AbstractContextManager[None]:
        return rolled_back()

    # The wire

    def connect(self) -> None:
        if self.broker == "away":
            raise BrokerUnavailable("no connection to mqtt://broker")

    def publish(self, messages: Any) -> list[Outcome]:
        """The broker's edge: judges each command at the moment at which it leaves."""
        if self.broker == "kills":
            self.broker = "up"
            raise Killed
        for topic, payload in messages:
            dock, command = self.by_sn[topic.split("/")[2]], json.loads(payload)
            self.judge(dock, command)
            dock.inbox.append(command)
        outcome = Outcome.DOUBTFUL if self.broker == "doubtful" else Outcome.CONFIRMED
        return [outcome] * len(messages)

    def judge(self, dock: Dock, command: dict[str, Any]) -> None:
        raise NotImplementedError

    def bring_in(self, *messages: Read) -> None:
        if messages:
            pipeline.process(messages)

    def say(self, dock: Dock, kind: str, payload: dict[str, Any], *, is_late: bool = False) -> None:
        said = Said(dock, f"thing/product/{dock.sn}/{kind}", payload, str(payload["bid"]))
        self.past.append(said)
        if is_late or not self.is_listening:
            self.late.append(said)
        else:
            self.deliver(said)

    def deliver(self, said: Said) -> None:
        self.bring_in(received(said.topic, said.payload))
        self.take_note(said)

    def take_note(self, said: Said) -> None:
        """From now on we know that a dock works."""
        if said.dock.working == said.bid and said.is_work:
            said.dock.told_work = True

    def say_progress(self, dock: Dock, data: dict[str, Any], *, is_late: bool = False) -> None:
        message = envelope(data, "ota_progress", bid=dock.working)
        self.say(dock, "events", message, is_late=is_late)

    def say_versions(self, dock: Dock) -> None:
        """Of the dock and, if it is on, of its aircraft."""
        if self.is_listening:
            machines = [machine for machine in (dock, dock.named) if machine]
            self.bring_in(*(self.push(m.sn, "state", m.firmware) for m in machines))

    def say_topology(self, dock: Dock) -> None:
        if self.is_listening and dock.is_online:
            message = envelope(dock.topology, "update_topo")
            self.bring_in(received(f"sys/product/{dock.sn}/status", message))
            dock.told = {}

    def push(self, sn: str, kind: str, data: dict[str, Any]) -> Read:
        return received(f"thing/product/{sn}/{kind}", envelope(data))

    def beat(self) -> None:
        """The bridge says that it lives, and every dock that is online tells of itself."""
        if self.is_listening:
            self.still_listening()
            online = [dock for dock in self.docks if dock.is_online]
            pushes = [self.push(dock.sn, "osd", dock.osd) for dock in online]
            named = [dock.named for dock in online if dock.named]
            self.bring_in(*pushes, *(self.push(each.sn, "osd", each.osd) for each in named))
            for dock in online:
                dock.told, dock.told_work = dock.osd, bool(dock.working)
                if dock.named:
                    dock.told["aircraft_mode"] = dock.named.osd["mode_code"]
        telemetry.mark_silent(timezone.now())

    def still_listening(self) -> None:
        BridgeSession.objects.filter(pk=self.session.pk).update(seen_at=timezone.now())

    def change_bridge(self, is_listening: bool) -> None:
        if is_listening == self.is_listening:
            return
        self.is_listening = is_listening
        now = timezone.now()
        session = BridgeSession.objects.filter(pk=self.session.pk)
        session.update(connected_since=now if is_listening else None, seen_at=now)

    # Time

    def pass_time(self, seconds: float) -> None:
        self.clock.shift(seconds)
        self.counted += seconds
        self.beat()

    def jump(self, hours: int) -> None:
        self.clock.shift(3600 * hours)
        self.beat()

    # Workers

    def tick(self, seconds: float, how: str) -> None:
        """Time passes, and workers do what is due; ``keep`` leaves it to one that is late."""
        self.pass_time(seconds)
        self.tick_now(how)

    def tick_now(self, how: str = "go") -> None:
        ready = tasks.tick(timezone.now())
        if how == "keep":
            self.queue.append(ready)
            return
        for _ in range(2 if how == "twice" else 1):
            self.work(ready)

    def work_late(self, place: int) -> None:
        if self.queue:
            self.work(self.queue.pop(place % len(self.queue)))

    def work(self, pks: list[int]) -> None:
        with contextlib.suppress(Killed):
            tasks.issue(pks)


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def later(minutes: int | None) -> dt.datetime | None:
    return timezone.now() + dt.timedelta(minutes=minutes) if minutes else None
