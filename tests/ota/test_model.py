"""Random operators, docks, kills and clocks over a real database: what must hold, holds after each step.

``MODEL_EXAMPLES=200`` makes it run longer; after a failure hypothesis prints how to repeat it.
"""

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import os
import sys
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fleet import telemetry
from fleet.models import Device, Site
from mqtt_bridge import pipeline, publisher, router
from mqtt_bridge.errors import BrokerUnavailable
from mqtt_bridge.models import BridgeSession
from ota import errors, packages, rollouts, states, steadiness, tasks
from ota.errors import Remedy
from ota.models import (
    FirmwarePackage,
    OrganizationPolicy,
    Rollout,
    TaskEvent,
    UpgradeTask,
)
from ota.rollouts import InvalidPolicy, NothingToUpgrade, NotPossible, Options
from ota.states import PackageState, TaskStatus
from tests.make import (
    envelope,
    make_dock,
    make_listening,
    make_organization,
    make_package,
    progress,
    received,
)

pytestmark = [pytest.mark.services, pytest.mark.django_db, pytest.mark.timeout(900)]

# Evening in Europe, two days before its clocks change.
START = dt.datetime(2026, 3, 27, 20, tzinfo=dt.UTC)

# The hours that rollouts get, each with a computation of its own.
HOURS: dict[str, Callable[[dt.datetime], bool]] = {
    "": lambda _: True,
    "daily 22:00-05:00": lambda wall: wall.hour >= 22 or wall.hour < 5,
    "Mon-Fri 08:00-18:00": lambda wall: wall.weekday() < 5 and 8 <= wall.hour < 18,
    "Sat 00:00-24:00, Sun 00:00-24:00": lambda wall: wall.weekday() >= 5,
}
# One of each remedy, and a code that nobody knows.
CODES = (312014, 312015, 312002, 312003, 312030, 312016, 312022, 312010, 312001, 399999)

EXAMPLES, STEPS = int(os.environ.get("MODEL_EXAMPLES", "12")), 100

_docks = st.integers(0, 5)
_policies = st.fixed_dictionaries(
    {
        "waves": st.sampled_from(["", "1, rest", "50%, 50%", "sites", "1, 1, rest"]),
        "windows": st.sampled_from(["", "", "", *HOURS]),
        "limit_in_flight": st.integers(1, 4),
        "limit_per_site": st.sampled_from([None, None, 1, 2]),
        "jitter_seconds": st.sampled_from([0, 0, 0, 30, 600]),
        "max_failed": st.sampled_from([None, None, 0, 2]),
        "max_failed_percent": st.sampled_from([None, 20, 50]),
        "failed_after": st.integers(1, 3),
        "soak_minutes": st.sampled_from([0, 0, 5]),
        "asks_between_waves": st.sampled_from([False, False, True]),
        "gate_first": st.sampled_from([100, 50]),
        "expected_minutes": st.sampled_from([30, 60]),
    }
)
_minutes = st.sampled_from([None, None, None, 20, 180])

_deeds = st.sampled_from(
    [
        *("answer take", "answer begin", "answer begin", "answer mute", "answer refuse"),
        *("answer refuse", "answer lose", "on in_progress", "on paused", "on new word"),
        *(
            "fail failed",
            "fail failed",
            "fail rejected",
            "fail canceled",
            "fail timeout",
            "fail ok",
        ),
        *("end prove", "end prove", "end only ok", "end only version", "end lie", "end die"),
        *("tell_version", "foreign", "become_busy", "go_away", "come_back", "come_back"),
        *("repeat", "repeat", "arrive_late", "arrive_late"),
    ]
)
_VERBS = (
    *("pause", "resume", "resume", "cancel", "retry", "retry", "retry one", "dismiss"),
    *("open_next_wave", "open_next_wave", "approve", "approve", "deny", "change", "change"),
    *("starts_at", "deadline_at"),
)
_WAITS = ("wait 65", "wait 600", "wait 1800", "wait 21600")
_LIBRARY = ("library withdraw", "library check", "library right", "library right", "library add")


class Killed(BaseException):
    """The process ended after its transaction and before it has sent anything."""


@dataclasses.dataclass
class Dock:
    """What a dock really does, whatever our rows say; ``told`` once we have heard of its work."""

    device: Device
    version: str
    is_online: bool = True
    is_busy: bool = False
    inbox: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    working: str = ""  # the bid that it works on
    wanted: str = ""
    told: bool = False

    @property
    def sn(self) -> str:
        return self.device.sn

    @property
    def mode(self) -> int:
        return 3 if self.working else 4 if self.is_busy else 0

    def begin(self, bid: str, version: str) -> None:
        self.working, self.wanted, self.told = bid, version, False

    def end(self, *, is_done: bool) -> None:
        self.version = self.wanted if is_done else self.version
        self.working, self.told = "", False


@dataclasses.dataclass
class Said:
    """Something that a dock published; it may come late, and more than once."""

    dock: Dock
    topic: str
    payload: dict[str, Any]
    bid: str = ""


class Model(RuleBasedStateMachine):
    """Every rule is a step; that which takes the commands is not real, and so are the two clocks."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 1000.0
        self.exits = contextlib.ExitStack()
        self.clock = self.exits.enter_context(time_machine.travel(START, tick=False))
        self.exits.enter_context(rolled_back())
        patch = self.exits.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(publisher, "publish", self.publish)
        patch.setattr(steadiness, "counted", lambda: self.counted)
        self.broker, self.is_listening = "up", True
        self.past: list[Said] = []
        self.late: list[Said] = []
        self.queue: list[list[int]] = []
        self.bids: dict[int, str] = {}
        self.tids: set[str] = set()
        self.last_event = 0
        self.folded: dict[int, str] = {}
        self.retried: Counter[int] = Counter()
        self.sent: Counter[int] = Counter()
        self.ended: dict[int, str] = {}
        self.numbers = itertools.count(1)

    @initialize(
        approval=st.sampled_from([None, None, 3]),
        system=st.sampled_from([0, 0, 3]),
        policy=_policies,
    )
    def set_up(self, approval: int | None, system: int, policy: dict[str, Any]) -> None:
        self.exits.enter_context(override_settings(SYSTEM_LIMIT_IN_FLIGHT=system))
        organization = make_organization()
        if approval:
            OrganizationPolicy.objects.create(
                organization=organization, approval_above=approval, limit_in_flight=4
            )
        zones = ["Europe/Zurich", "America/Los_Angeles"]
        self.sites = [
            Site.objects.create(organization=organization, name=zone, time_zone=zone)
            for zone in zones
        ]
        places = [*self.sites, *self.sites, self.sites[0], None]
        self.docks = [
            Dock(device, device.firmware_version)
            for device in (make_dock(organization=organization, site=place) for place in places)
        ]
        self.by_sn = {dock.sn: dock for dock in self.docks}
        self.author, self.second = (User.objects.create_user(name) for name in ("olga", "otto"))
        self.session = make_listening()
        self.add_package()
        self.launch(policy, None, None, set(range(6)), pilot=False)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else a step has failed already, which is to be seen
                self.heal()
        finally:
            self.exits.close()

    # The wire

    def publish(self, messages: Any) -> list[bool]:
        """The broker's edge: judges each command at the moment at which it leaves."""
        if self.broker == "away":
            raise BrokerUnavailable("no connection to mqtt://broker")
        if self.broker == "kills":
            self.broker = "up"
            raise Killed
        for topic, payload in messages:
            dock, command = self.by_sn[topic.split("/")[2]], json.loads(payload)
            self.judge(dock, command)
            dock.inbox.append(command)
        return [self.broker != "doubtful"] * len(messages)

    def judge(self, dock: Dock, command: dict[str, Any]) -> None:
        task = UpgradeTask.objects.select_related("rollout", "wave", "gateway__site").get(
            bid=command["bid"]
        )
        now, rollout = timezone.now(), task.rollout
        assert not (dock.working and dock.told), f"{dock} works already"
        assert command["tid"] not in self.tids
        self.tids.add(command["tid"])
        assert self.bids.setdefault(task.pk, command["bid"]) == command["bid"]
        assert rollout.status == Rollout.Status.RUNNING
        assert task.wave.opened_at
        assert rollout.starts_at is None or rollout.starts_at <= now
        assert rollout.deadline_at is None or rollout.deadline_at > now
        assert is_long_enough(task, now)
        self.judge_limits(task)

    def judge_limits(self, task: UpgradeTask) -> None:
        rollout, flying = task.rollout, UpgradeTask.objects.in_flight()
        assert flying.filter(rollout=rollout).count() <= rollout.limit_in_flight
        if rollout.limit_per_site and task.gateway.site_id:
            same = flying.filter(gateway__site=task.gateway.site_id)
            # A rollout without this limit may come to the site right after.
            same = same.exclude(~Q(rollout=rollout), sent_at=task.sent_at)
            assert same.count() <= rollout.limit_per_site
        if settings.SYSTEM_LIMIT_IN_FLIGHT:
            assert flying.count() <= settings.SYSTEM_LIMIT_IN_FLIGHT

    def say(self, dock: Dock, kind: str, payload: dict[str, Any], *, is_late: bool = False) -> None:
        said = Said(dock, f"thing/product/{dock.sn}/{kind}", payload, str(payload["bid"]))
        self.past.append(said)
        if is_late or not self.is_listening:
            self.late.append(said)
        else:
            self.deliver(said)

    def deliver(self, said: Said) -> None:
        pipeline.process([received(said.topic, said.payload)])
        is_end = said.payload["data"].get("output", {}).get("status") in {
            "ok",
            "failed",
            "rejected",
            "canceled",
            "timeout",
        }
        is_refusal = said.topic.endswith("_reply") and said.payload["data"]["result"]
        if said.dock.working == said.bid and not is_end and not is_refusal:
            said.dock.told = True

    def say_progress(self, dock: Dock, data: dict[str, Any], *, is_late: bool = False) -> None:
        message = envelope(data, "ota_progress", bid=dock.working)
        self.say(dock, "events", message, is_late=is_late)

    def say_version(self, dock: Dock) -> None:
        if self.is_listening:
            message = envelope({"firmware_version": dock.version, "compatible_status": 0})
            pipeline.process([received(f"thing/product/{dock.sn}/state", message)])

    def beat(self) -> None:
        """The bridge says that it lives, and every dock that is online tells its mode."""
        if self.is_listening:
            BridgeSession.objects.filter(pk=self.session.pk).update(seen_at=timezone.now())
            online = [dock for dock in self.docks if dock.is_online]
            pipeline.process([self.osd(dock) for dock in online])
            for dock in online:
                dock.told = bool(dock.working)
        telemetry.mark_silent(timezone.now())

    def osd(self, dock: Dock) -> Any:
        data = {
            "mode_code": dock.mode,
            "flighttask_step_code": 5,
            "drone_in_dock": 1,
            "emergency_stop_state": 0,
            "drone_charge_state": {"capacity_percent": 90},
        }
        return received(f"thing/product/{dock.sn}/osd", envelope(data))

    # Steps. Hypothesis chooses among them alike, so the usual ones do much and the rare ones share one.

    @rule(hands=st.sets(_docks), seconds=st.sampled_from([2, 12, 61]))
    def live_well(self, hands: set[int], seconds: float) -> None:
        """Docks do what they should, and everything is there."""
        self.broker = "up"
        self.change_bridge(True)
        for number in range(len(self.docks)):
            self.come_back(number)
        for number in sorted(hands):
            self.answer(number, "begin", 0, False)
            self.finish(number, "prove", False)
        self.tick(seconds, "go")

    @rule(
        hands=st.sets(_docks, min_size=1),
        how=st.sampled_from(["refuse", "mute", "begin", "begin", "begin"]),
        code=st.sampled_from(CODES),
        seconds=st.sampled_from([2, 61, 400]),
    )
    def go_wrong(self, hands: set[int], how: str, code: int, seconds: float) -> None:
        """Several docks refuse, or fail, with the same code."""
        for number in sorted(hands):
            self.answer(number, how, code, False)
            self.fail(number, "failed", code, False)
        self.tick(seconds, "go")

    @rule(
        deeds=st.lists(
            st.tuples(_docks, _deeds, st.sampled_from(CODES), st.booleans()), max_size=6
        ),
        seconds=st.sampled_from([1, 3, 12, 61, 400]),
        how=st.sampled_from(["go", "go", "twice", "keep"]),
    )
    def live(self, deeds: list[tuple[int, str, int, bool]], seconds: float, how: str) -> None:
        """Docks do anything, in any order, and the workers go on."""
        for number, deed, code, is_late in deeds:
            self.do(deed, number, code, is_late)
        self.tick(seconds, how)

    def do(self, deed: str, number: int, code: int, is_late: bool) -> None:
        kind, _, how = deed.partition(" ")
        if kind == "answer":
            self.answer(number, how, code, is_late)
        elif kind == "on":
            self.go_on(number, how, is_late)
        elif kind == "fail":
            self.fail(number, how, code, is_late)
        elif kind == "end":
            self.finish(number, how, is_late)
        elif kind == "foreign":
            self.upgrade_by_somebody_else(number, is_late)
        else:
            getattr(self, kind)(number)

    @rule(
        place=st.integers(0, 3),
        verb=st.sampled_from(_VERBS),
        policy=_policies,
        minutes=_minutes,
        name=st.sampled_from(["limit_in_flight", "limit_per_site", "windows", "max_failed"]),
    )
    def operate(
        self, place: int, verb: str, policy: dict[str, Any], minutes: int | None, name: str
    ) -> None:
        if verb == "change":
            self.alter(place, {name: policy[name]})
        elif verb in {"starts_at", "deadline_at"}:
            self.alter(place, {verb: later(minutes)})
        elif verb in {"approve", "deny"}:
            self.decide(place, verb == "approve")
        elif verb == "retry one":
            self.retry_one()
        else:
            self.press(place, verb)

    @rule(
        policy=_policies,
        times=st.tuples(_minutes, _minutes),
        chosen=st.sets(_docks, min_size=2),
        pilot=st.booleans(),
    )
    def start(
        self,
        policy: dict[str, Any],
        times: tuple[int | None, int | None],
        chosen: set[int],
        pilot: bool,
    ) -> None:
        self.launch(policy, *times, chosen, pilot)

    @rule(
        what=st.sampled_from(
            [
                *_WAITS,
                "jump 1",
                "jump -1",
                "bridge",
                "broker away",
                "broker kills",
                "broker doubtful",
                *_LIBRARY,
            ]
        ),
        place=st.integers(0, 3),
    )
    def meet_trouble(self, what: str, place: int) -> None:
        kind, _, how = what.partition(" ")
        if kind == "wait":
            self.pass_time(float(how))
        elif kind == "jump":
            self.jump(int(how))
        elif kind == "bridge":
            self.change_bridge(not self.is_listening)
        elif kind == "broker":
            self.broker = how if self.broker == "up" else "up"
        else:
            self.change_library(how)
        self.work_late(place)

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
        self.pass_time(seconds)
        ready = tasks.tick(timezone.now())
        if how == "keep":
            self.queue.append(ready)
            return
        for _ in range(2 if how == "twice" else 1):
            self.work(ready)
        self.check_what_waits()

    def work_late(self, place: int) -> None:
        if self.queue:
            self.work(self.queue.pop(place % len(self.queue)))

    def work(self, pks: list[int]) -> None:
        with contextlib.suppress(Killed):
            tasks.issue(pks)

    def change_bridge(self, is_listening: bool) -> None:
        if is_listening == self.is_listening:
            return
        self.is_listening = is_listening
        now = timezone.now()
        session = BridgeSession.objects.filter(pk=self.session.pk)
        session.update(connected_since=now if is_listening else None, seen_at=now)

    # Operators

    def launch(
        self,
        policy: dict[str, Any],
        starts: int | None,
        deadline: int | None,
        chosen: set[int],
        pilot: bool,
    ) -> None:
        now = timezone.now()
        sns = sorted(self.docks[number].sn for number in chosen)
        options = Options(
            starts_at=later(starts),
            deadline_at=later(deadline),
            policy=policy,
            pilot=sns[:1] if pilot else (),
        )
        with contextlib.suppress(NothingToUpgrade, InvalidPolicy):
            rollouts.launch(Device.objects.filter(sn__in=sns), options, now, self.author)

    def rollout(self, place: int) -> Rollout | None:
        found = list(Rollout.objects.order_by("finished_at", "-pk")[:4])
        return found[place % len(found)] if found else None

    def press(self, place: int, verb: str) -> None:
        if rollout := self.rollout(place):
            with contextlib.suppress(NotPossible):
                getattr(rollouts, verb)(rollout, timezone.now(), self.author)

    def retry_one(self) -> None:
        failed = UpgradeTask.objects.needing_attention().order_by("-pk").first()
        if failed:
            with contextlib.suppress(NotPossible):
                rollouts.retry(failed.rollout, timezone.now(), self.author, [failed.pk])

    def decide(self, place: int, is_approved: bool) -> None:
        if rollout := self.rollout(place):
            verb = rollouts.approve if is_approved else rollouts.deny
            with contextlib.suppress(NotPossible):
                verb(rollout, timezone.now(), self.second)

    def alter(self, place: int, fields: dict[str, Any]) -> None:
        if rollout := self.rollout(place):
            with contextlib.suppress(NotPossible, InvalidPolicy):
                rollouts.change(rollout, fields, timezone.now(), self.author)

    def change_library(self, what: str) -> None:
        newest = FirmwarePackage.objects.order_by("-version_number").first()
        if newest is None or what == "add":
            self.add_package()
        elif what == "withdraw":
            packages.withdraw(newest, timezone.now())
            self.add_package()
        else:
            state = PackageState.CHECKING if what == "check" else PackageState.AVAILABLE
            known = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN)
            known.update(state=state)

    def add_package(self) -> None:
        if (number := next(self.numbers)) < 100:
            make_package(f"20.{number:02d}.0000")

    # Docks

    def one(self, number: int, is_right: Callable[[Dock], Any]) -> Dock | None:
        found = [dock for dock in self.docks if dock.is_online and is_right(dock)]
        return found[number % len(found)] if found else None

    def answer(self, number: int, how: str, code: int, is_late: bool) -> None:
        if not (dock := self.one(number, lambda dock: dock.inbox)):
            return
        command = dock.inbox.pop(0)
        if how == "lose":
            return
        if dock.working or dock.is_busy:
            how, code = "refuse", errors.ALREADY_UPGRADING if dock.working else 312015
        if how == "refuse":
            self.reply(dock, command, {"result": code}, is_late=is_late)
            return
        dock.begin(command["bid"], command["data"]["devices"][0]["product_version"])
        if how != "mute":
            data = {"result": 0, "output": {"status": "in_progress" if how == "begin" else "sent"}}
            self.reply(dock, command, data, is_late=is_late)

    def reply(
        self, dock: Dock, command: dict[str, Any], data: dict[str, Any], *, is_late: bool = False
    ) -> None:
        ids = {"tid": command["tid"], "bid": command["bid"]}
        self.say(dock, "services_reply", envelope(data, "ota_create", **ids), is_late=is_late)

    def go_on(self, number: int, status: str, is_late: bool) -> None:
        if dock := self.one(number, lambda dock: dock.working):
            self.say_progress(dock, progress(status, 40), is_late=is_late)

    def fail(self, number: int, status: str, code: int, is_late: bool) -> None:
        if dock := self.one(number, lambda dock: dock.working):
            self.say_progress(dock, progress(status, 60, result=code), is_late=is_late)
            dock.end(is_done=False)

    def finish(self, number: int, how: str, is_late: bool) -> None:
        if not (dock := self.one(number, lambda dock: dock.working)):
            return
        if how in {"prove", "only ok", "lie"}:
            self.say_progress(dock, progress("ok", 100), is_late=is_late)
        dock.end(is_done=how not in {"lie", "die"})
        if how in {"prove", "only version"}:
            self.say_version(dock)

    def tell_version(self, number: int) -> None:
        if dock := self.one(number, bool):
            self.say_version(dock)

    def upgrade_by_somebody_else(self, number: int, is_new: bool) -> None:
        dock = self.one(number, lambda dock: not dock.working and not dock.is_busy)
        newest = FirmwarePackage.objects.order_by("-version_number").first()
        if dock and newest:
            version = newest.version if is_new else dock.version
            dock.begin(f"theirs-{timezone.now():%H%M%S}-{len(self.past)}", version)
            self.say_progress(dock, progress("in_progress", 1))

    def become_busy(self, number: int) -> None:
        if dock := self.one(number, lambda dock: not dock.working):
            dock.is_busy = not dock.is_busy

    def go_away(self, number: int) -> None:
        self.docks[number].is_online = False

    def come_back(self, number: int) -> None:
        dock = self.docks[number]
        if not dock.is_online and self.is_listening:
            dock.is_online = True
            message = envelope(
                {"domain": 3, "type": 2, "sub_type": 0, "sub_devices": []}, "update_topo"
            )
            pipeline.process([received(f"sys/product/{dock.sn}/status", message)])
            self.say_version(dock)

    def repeat(self, place: int) -> None:
        """The broker delivers something once more, or a second time late."""
        if self.past and self.is_listening:
            self.deliver(self.past[-1 - place % len(self.past)])

    def arrive_late(self, place: int) -> None:
        if self.late and self.is_listening:
            self.deliver(self.late.pop(place % len(self.late)))

    # What must hold

    @invariant()
    def history_adds_up(self) -> None:
        statuses = dict(UpgradeTask.objects.values_list("pk", "status"))
        for event in TaskEvent.objects.filter(pk__gt=self.last_event).order_by("pk"):
            self.last_event = event.pk
            self.fold(event)
        assert self.folded == statuses
        attempts = UpgradeTask.objects.filter(attempt__gt=0).values_list("pk", "attempt")
        assert dict(attempts) == {pk: count for pk, count in self.sent.items() if count}

    def fold(self, event: TaskEvent) -> None:
        pk = event.task_id
        if event.kind == TaskEvent.Kind.COMMAND:
            self.sent[pk] += 1
        if event.kind != TaskEvent.Kind.STATUS:
            return
        assert event.from_status == self.folded.get(pk, "")
        assert event.from_status not in states.TERMINAL
        self.folded[pk] = event.to_status
        self.sent[pk] -= event.text.startswith("not sent: ")
        if event.text.endswith("tried again after a pause"):
            self.retried[pk] += 1
            assert self.retried[pk] <= most_retries(event.result)

    @invariant()
    def what_has_ended_stays(self) -> None:
        statuses = dict(
            UpgradeTask.objects.filter(status__in=states.TERMINAL).values_list("pk", "status")
        )
        assert self.ended.items() <= statuses.items()
        self.ended = statuses

    def check_what_waits(self) -> None:
        """After a tick each open task says what it waits for, and each rollout without one has ended."""
        if not steadiness.is_steady(timezone.now()):
            return
        open_ = UpgradeTask.objects.open().select_related("rollout", "wave", "gateway")
        for task in open_.filter(status=TaskStatus.PENDING):
            self.check_reason(task)
        waiting = set(UpgradeTask.objects.open().values_list("rollout", flat=True))
        ended = set(Rollout.objects.exclude(finished_at=None).values_list("pk", flat=True))
        assert not waiting & ended
        unfinished = Rollout.objects.filter(finished_at=None).exclude(pk__in=waiting)
        if unfinished.exists():
            tasks.tick(timezone.now())
        assert not unfinished.exists()

    def check_reason(self, task: UpgradeTask) -> None:
        rollout = task.rollout
        if rollout.status == Rollout.Status.RUNNING and task.wave.opened_at:
            # One that is ready had no slot, or goes with the next tick in place of one that did not.
            assert task.waits_for or task.is_ready, task.__dict__
        else:
            assert rollout.status != Rollout.Status.PAUSED or rollout.pause_reason
            assert rollout.status in states.UNFINISHED

    def heal(self) -> None:
        """Everybody does what they should, and all that is open ends."""
        self.broker, self.queue = "up", []
        self.exits.enter_context(override_settings(SYSTEM_LIMIT_IN_FLIGHT=0))
        self.change_bridge(True)
        self.change_library("right")
        for dock in self.docks:
            dock.is_busy = False
            self.come_back(self.docks.index(dock))
        while self.late:
            self.deliver(self.late.pop(0))
        for number in range(120):
            if not UpgradeTask.objects.open().exists():
                break
            self.heal_once(20 if number < 10 else 120)
        self.pass_time(61)
        tasks.tick(timezone.now())
        assert not UpgradeTask.objects.open().exists(), self.left_over()
        assert not Rollout.objects.filter(finished_at=None).exists()
        self.history_adds_up()

    def heal_once(self, seconds: float) -> None:
        now = timezone.now()
        for rollout in Rollout.objects.filter(finished_at=None):
            self.free(rollout, now)
        for dock in self.docks:
            while dock.inbox:
                self.answer_well(dock, dock.inbox.pop(0))
        self.pass_time(seconds)
        for dock in self.docks:
            if dock.working:
                self.say_progress(dock, progress("ok", 100))
                dock.end(is_done=True)
            self.say_version(dock)
        self.work(tasks.tick(timezone.now()))
        self.check_what_waits()

    def free(self, rollout: Rollout, now: dt.datetime) -> None:
        if rollout.status == Rollout.Status.NEEDS_APPROVAL:
            rollouts.approve(rollout, now, self.second)
        rollouts.resume(rollout, now)
        if rollout.status in states.UNFINISHED:
            freed = {"windows": "", "starts_at": None, "deadline_at": None}
            rollouts.change(rollout, freed, now)
        with contextlib.suppress(NotPossible):
            while rollouts.open_next_wave(rollout, now):
                pass

    def answer_well(self, dock: Dock, command: dict[str, Any]) -> None:
        if dock.working:
            self.reply(dock, command, {"result": errors.ALREADY_UPGRADING})
            return
        dock.begin(command["bid"], command["data"]["devices"][0]["product_version"])
        self.reply(dock, command, {"result": 0, "output": {"status": "in_progress"}})

    def left_over(self) -> list[Any]:
        found = UpgradeTask.objects.open().select_related("rollout")
        return [(t.pk, t.status, t.waits_for, t.rollout.status, t.due_at) for t in found]


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def later(minutes: int | None) -> dt.datetime | None:
    return timezone.now() + dt.timedelta(minutes=minutes) if minutes else None


def is_long_enough(task: UpgradeTask, now: dt.datetime) -> bool:
    """Minute by minute on the site's clock."""
    site = task.gateway.site
    zone = zoneinfo.ZoneInfo(site.time_zone if site else settings.TIME_ZONE)
    is_open, minutes = HOURS[task.rollout.windows], task.rollout.expected_minutes
    moments = [now + dt.timedelta(minutes=minute) for minute in range(minutes)]
    moments.append(now + dt.timedelta(minutes=minutes, seconds=-1))
    return all(is_open(moment.astimezone(zone)) for moment in moments)


def most_retries(result: int | None) -> int:
    if not result:
        return settings.RETRIES
    limits = {
        Remedy.WAIT: settings.WAIT_RETRIES,
        Remedy.RETRY: settings.RETRIES,
        Remedy.RETRY_AFTER_FIX: 1,
    }
    return limits.get(errors.explain(result).remedy, 0)


def test_whatever_happens_no_promise_is_broken_and_everything_ends() -> None:
    router.discover()
    run_state_machine_as_test(
        Model,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # The same examples each time; with MODEL_EXAMPLES set, others.
            derandomize="MODEL_EXAMPLES" not in os.environ,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
