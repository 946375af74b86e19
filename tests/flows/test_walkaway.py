"""An operator starts a rollout and walks away: waves, faults, a mass failure, and processes killed at random.

``STORY_DOCKS=1000`` tells it at the size of a large fleet; ``-s`` shows what was measured, and
``STORY_SEED`` repeats the kills of an earlier run.
"""

import collections
import itertools
import os
import pprint
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import Max, Q
from django.utils import timezone
from rich.console import Console

from fleet.models import Device
from ota.models import Rollout, RolloutEvent, TaskEvent, UpgradeTask, Wave
from ota.states import RolloutStatus, TaskStatus
from simulator import faults
from simulator.fleet import plan
from simulator.moments import MASS_FAILURE
from tests.flows.conftest import Story, docks_say
from tests.flows.ear import Ear
from tests.histories import History
from tests.processes import Running
from tests.servers import Server

DOCKS = int(os.environ.get("STORY_DOCKS", "60"))
IS_LARGE = DOCKS >= 500
KILLS = 10 if IS_LARGE else 4
SEED = int(os.environ.get("STORY_SEED") or random.randrange(1_000_000))  # noqa: S311
MOST_FAILED = max(4, DOCKS // 50)
PATIENCE = 180 + DOCKS  # s for each stage, on a busy machine
# s until a dock asks again: a bridge that is killed takes its answers with it, and a dock that waits for
# one reports no version meanwhile.
ANSWERS = 30 if IS_LARGE else 5

pytestmark = [
    pytest.mark.services,
    pytest.mark.postgres_alone,
    pytest.mark.timeout(8 * PATIENCE),
]

Kind = RolloutEvent.Kind
PROVEN = (TaskStatus.OK, 0)
# How a dock's last task ends, by its fault, after two retries.
EXPECTED: dict[str | None, tuple[str, int | None]] = {
    None: PROVEN,
    # These clear by themselves: the task waits, and goes.
    "busy": PROVEN,
    "offline": PROVEN,
    "low-battery": PROVEN,
    "aircraft-out": PROVEN,
    "emergency-stop": PROVEN,
    "4g": PROVEN,
    # Unusual ways to the same end.
    "consistency": PROVEN,
    "aircraft-off": PROVEN,
    "lost-reply": PROVEN,
    "terminal-lost": PROVEN,
    "duplicate": PROVEN,
    "slow-download": PROVEN,
    "rejected": PROVEN,
    "failed-proven": PROVEN,
    # These end with the reason that the fault dictates.
    "rejected-always": (TaskStatus.REJECTED, 312015),
    "fail-download": (TaskStatus.FAILED, 312003),
    "fail-upgrade": (TaskStatus.TIMEOUT, 312028),
    "ok-unproven": (TaskStatus.FAILED, 0),
    # It took the command and was never heard again: nothing more is sent, and somebody has to look.
    "silent": (TaskStatus.TIMEOUT, 0),
}
# Somebody else upgrades it before our command goes, or even before the rollout starts.
FOREIGN = "foreign"
# The report that clears a fault.
CLEARS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "busy": lambda data: data.get("flighttask_step_code") == 5,
    "low-battery": lambda data: data.get("drone_charge_state", {}).get("capacity_percent", 0) > 20,
    "aircraft-out": lambda data: data.get("drone_in_dock") == 1,
    "emergency-stop": lambda data: data.get("emergency_stop_state") == 0,
    "4g": lambda data: data.get("wireless_link", {}).get("link_workmode") == 0,
}


def spread() -> dict[str, int]:
    """How many docks have each fault: one of each at least, else 5 % of all; more of those that pass."""
    names = [name for name in faults.FAULTS if name != "no-fault"]
    passing = [name for name in names if faults.FAULTS[name].clears]
    wanted = max(len(names), DOCKS // 20)
    return dict(collections.Counter(itertools.islice(itertools.cycle([*names, *passing]), wanted)))


class Reaper:
    """Kills a process whenever so many upgrades more are over, each once before one comes again."""

    def __init__(self, parts: dict[str, Running]) -> None:
        self._random = random.Random(SEED)  # noqa: S311
        self._parts = parts
        self._due = sorted(self._random.sample(range(1, DOCKS * 4 // 5), KILLS))
        self._names = self._shuffled()
        self.killed: list[str] = []

    def _shuffled(self) -> Iterator[str]:
        while True:
            yield from self._random.sample(sorted(self._parts), len(self._parts))

    def look(self) -> None:
        over = UpgradeTask.objects.exclude(finished_at=None).count()
        while self._due and over >= self._due[0]:
            self._due.pop(0)
            self._kill(next(self._names))

    def _kill(self, name: str) -> None:
        self._parts[name].kill9()
        self._parts[name].start(wait=False)
        self.killed.append(f"{name} at {timezone.now():%H:%M:%S}")


class Walk:
    """One rollout from its start to its end, with what was seen on the way."""

    def __init__(self, told: Story, ear: Ear) -> None:
        self.told, self.ear = told, ear
        self.faulty = spread()
        self.fault_of = {dock.sn: dock.fault for dock in plan(DOCKS, self.faulty)}
        self.reaper = Reaper(told.parts)
        self.began = time.monotonic()

    def start(self) -> None:
        counted = (f"{name}={count}" for name, count in self.faulty.items())
        arguments = [word for fault in counted for word in ("--fault", fault)]
        self.simulator = self.told.simulate(
            DOCKS, "--speed", "10" if IS_LARGE else "20", "--osd", "15" if IS_LARGE else "1",
            "--patience", str(ANSWERS), "--clear-after", "0", "--json", *arguments,
            seconds=PATIENCE,
        )  # fmt: skip
        passing = [sn for sn, fault in self.fault_of.items() if fault in CLEARS]
        topics = [f"thing/product/{sn}/osd" for sn in passing]
        self.ear.listen("thing/product/+/services", "thing/product/+/services_reply", *topics)
        self.began = time.monotonic()
        call_command(
            "start_upgrade", "--all", "--waves", "5, 10%, rest", "--max-failed", str(MOST_FAILED),
            "--max-failed-percent", "none", "--limit-in-flight", str(max(10, DOCKS // 10)),
        )  # fmt: skip
        self.rollout = Rollout.objects.get()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Waits for something, and kills meanwhile."""

        def holds() -> object:
            self.reaper.look()
            return condition()

        self.told.wait(holds, what, PATIENCE)

    def stands(self, status: RolloutStatus) -> bool:
        return Rollout.objects.filter(pk=self.rollout.pk, status=status).exists()

    def waves_open(self) -> int:
        return Wave.objects.filter(rollout=self.rollout, opened_at__isnull=False).count()

    def only(self, *names: str | None) -> bool:
        """Whether of all docks only those with one of the faults have tasks that are open."""
        found = UpgradeTask.objects.open().values_list("gateway__sn", flat=True)
        return all(self.fault_of[sn] in names for sn in found)

    def verb(self, *words: str) -> None:
        call_command("rollout", str(self.rollout.pk), *words)

    def send(self, number: int) -> None:
        os.kill(self.simulator.pid, number)

    def fail_and_go_on(self) -> None:
        """All docks of wave 2 fail, until the rollout has paused itself; then an operator resumes it."""
        self.wait(lambda: self.waves_open() == 2, "wave 2")
        self.send(signal.SIGUSR2)
        self.wait(lambda: self.stands(Rollout.Status.PAUSED), "the pause")
        self.wait(lambda: not UpgradeTask.objects.in_flight().exists(), "the end of what flew")
        self.send(signal.SIGUSR2)
        self.verb("retry")
        self.verb("change", "--max-failed", str(2 * MOST_FAILED))  # for those that end badly anyway
        self.verb("resume")

    def end(self) -> None:
        self.wait(lambda: self.waves_open() == 3, "wave 3")
        self.wait(lambda: self.only(*CLEARS, "offline", "silent"), "what is not held up")
        for part in self.told.parts.values():
            part.wait_until_ready()
        self.send(signal.SIGUSR1)
        self.wait(lambda: self.stands(Rollout.Status.FINISHED), "the end")
        self.took = time.monotonic() - self.began

    # What is to be seen afterwards

    def outcomes(self) -> dict[str, tuple[str, int | None]]:
        """By dock, how its last task ended."""
        newest = UpgradeTask.objects.values("gateway").annotate(last=Max("pk")).values("last")
        rows = UpgradeTask.objects.filter(pk__in=newest)
        found = rows.values_list("gateway__sn", "status", "result")
        return {sn: (status, result or 0) for sn, status, result in found}

    def expected(self) -> dict[str, tuple[str, int | None]]:
        foreign = {sn: PROVEN for sn in self.outcomes() if self.fault_of[sn] == FOREIGN}
        ours = {sn: EXPECTED[fault] for sn, fault in self.fault_of.items() if fault != FOREIGN}
        return ours | foreign

    def surprises(self) -> dict[str, list[str]]:
        """By dock that did not end as its fault would have it, what happened to it."""
        expected = self.expected()
        return {
            f"{sn}, {self.fault_of[sn]}": told(sn)
            for sn, found in self.outcomes().items()
            if found != expected[sn]
        }

    def reactions(self) -> list[float]:
        """Seconds from the report that cleared a fault to the command, both as heard at the broker."""
        clear: dict[str, float] = {}
        for report in self.ear.all("osd"):
            if CLEARS[str(self.fault_of[report.sn])](report.payload["data"]):
                clear.setdefault(report.sn, report.at)
        sent = {command.sn: command.at for command in reversed(self.ear.all("services"))}
        return sorted(sent[sn] - at for sn, at in clear.items())


def told(sn: str) -> list[str]:
    """The history of a dock's upgrades and when its devices reported what they have, for a failure."""
    lines = TaskEvent.objects.filter(task__gateway__sn=sn).order_by("pk")
    columns = ("at", "reported_at", "kind", "to_status", "device_status", "step", "result", "text")
    events = [" ".join(str(word) for word in line) for line in lines.values_list(*columns)]
    devices = Device.objects.filter(Q(sn=sn) | Q(gateway__sn=sn))
    reports = ("sn", "firmware_version", "firmware_reported_at", "firmware_seen_at", "topology_at",
               "topology_seen_at", "online_since")  # fmt: skip
    return events + [" ".join(str(word) for word in row) for row in devices.values_list(*reports)]


def judge_pause(walk: Walk) -> str:
    """It paused at the first tick after too many had failed, and sent nothing more until it was resumed."""
    events = {event.kind: event for event in RolloutEvent.objects.filter(rollout=walk.rollout)}
    stopped, resumed = events[Kind.STOPPED], events[Kind.RESUMED]
    meanwhile = TaskEvent.objects.filter(
        kind=TaskEvent.Kind.COMMAND, at__gt=stopped.at, at__lt=resumed.at
    )
    assert not meanwhile.exists()
    failed = UpgradeTask.objects.filter(result=MASS_FAILURE.code)
    assert set(failed.values_list("wave__number", flat=True)) == {2}
    assert not failed.filter(resolved_at=None).exists()
    return f"{stopped.text} {failed.count()} failed in all before what flew had ended."


def judge_commands(walk: Walk, summary: dict[str, int]) -> str:
    """Each command came once, and no dock took a second one for an upgrade that it had done."""
    commands = walk.ear.all("services")
    attempts = collections.Counter(command.bid for command in commands)
    assert len({command.tid for command in commands}) == len(commands)
    known = dict(UpgradeTask.objects.filter(attempt__gt=0).values_list("bid", "attempt"))
    assert all(attempts[bid] <= attempt for bid, attempt in known.items())
    assert attempts.keys() <= known.keys()
    assert "refused 312014" not in summary
    done = [fault for fault in walk.fault_of.values() if EXPECTED.get(fault, PROVEN) == PROVEN]
    say_failed = done.count("failed-proven")
    assert summary["ok"] + summary["ok without terminal event"] == len(done) - say_failed
    return f"{len(commands)} commands heard, each once; {sum(known.values())} noted as sent"


@pytest.fixture
def walk(story: Callable[..., Story], mosquitto: Server) -> Iterator[Walk]:
    long = 6 if IS_LARGE else 1  # a thousand docks keep two cores busy
    told = story(
        size=20_000, OTA_RETRIES="2", OTA_RETRY_PAUSE_SECONDS="10", OTA_WAIT_RETRIES="2",
        OTA_WAIT_PAUSE_SECONDS="1", OTA_REPLY_SECONDS=str(10 * long),
        OTA_STALL_SECONDS=str(15 * long), OTA_VERIFY_SECONDS=str(20 * long),
        OFFLINE_AFTER_SECONDS=str(10 * long),
    )  # fmt: skip
    told.parts["web"] = told.processes.web()
    with Ear(mosquitto.url) as ear:
        yield Walk(told, ear)


def test_a_rollout_is_carried_through_faults_a_mass_failure_and_kills(walk: Walk) -> None:
    show = Console().print
    show(f"{DOCKS} docks, seed {SEED}, faults: {walk.faulty}")
    walk.start()
    walk.fail_and_go_on()
    walk.end()
    show(f"took {walk.took:.0f} s; killed: {', '.join(walk.reaper.killed)}")
    show("paused by itself:", judge_pause(walk))
    summary = docks_say(walk.simulator)
    show("docks say:", summary)
    reactions = walk.reactions()
    show(
        f"from the report to the command: {len(reactions)} docks, median "
        f"{statistics.median(reactions):.1f} s, most {reactions[-1]:.1f} s"
    )
    show(judge_commands(walk, summary))
    assert len(walk.reaper.killed) == KILLS
    assert walk.outcomes().keys() == walk.fault_of.keys()
    assert not walk.surprises(), pprint.pformat(walk.surprises(), width=200)
    history = History()
    history.extend(TaskEvent.objects.order_by("pk").iterator())
    history.assert_adds_up()
