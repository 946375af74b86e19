"""Everything for a long time, with random kills: ``python -m benchmarks.soak [--minutes 60] [--docks 2000]``.

All is real: PostgreSQL, Mosquitto, Redis, worker, beat, console, firmware server and bridge, and
docks with full telemetry at their own speed. At even intervals a part of the docks is upgraded. In
the first half of the time one of our processes, or Redis, is killed now and then and started again.
Ended rollouts are made a month older, so that their reports are folded meanwhile. At the end no
process may have grown, and what docks and database have counted has to agree.
"""

import argparse
import datetime as dt
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import close_old_connections, connections
from django.db.models import Count, F, Sum
from django.test import Client
from django.utils import timezone
from rich.console import Console

from benchmarks import ground, machine, page, results
from benchmarks.growing import Memory
from benchmarks.results import Result, Size
from benchmarks.totals import Totals, disagreements
from demo import ports
from fleet import binding
from fleet.models import Device
from mqtt_bridge.models import FailedMessage
from ota import packages
from ota.models import FoldedReports, ForeignUpgrade, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from simulator.fleet import plan
from simulator.packages import SERIES, build
from tests import servers
from tests.make import make_organization
from tests.processes import ROOT, Processes, Running, eventually

TOPIC = "soak"
CODE = "SOAKCODE77"
SAMPLE = 10.0  # s
AGE = dt.timedelta(days=30)
COMES_AGAIN = dt.timedelta(minutes=2)
KEPT = "14"  # EVENT_DAYS
REST = 30 * 60.0  # s that upgrades under way may take at the end


class Course(NamedTuple):
    """What is to happen; times in seconds, ``bytes`` of a package."""

    docks: int
    seconds: float
    rollouts: int
    kills: int
    speed: float = 1.0
    bytes: int = 1_000_000


SMALL = Course(docks=9, seconds=24, rollouts=2, kills=2, speed=20, bytes=50_000)


def course(minutes: float, docks: int) -> Course:
    """A rollout every ten minutes, a kill every two; in less than an hour both more often."""
    return Course(
        docks, minutes * 60, rollouts=max(2, round(minutes / 10)), kills=max(4, round(minutes / 4))
    )


def run(size: Size) -> Iterable[Result]:
    yield from soak(SMALL if size is Size.SMALL else course(60, 2000))


def soak(plan: Course, seed: int = 1) -> Iterable[Result]:
    with stage(plan) as found:
        found.play(random.Random(seed))  # noqa: S311 (chooses whom to kill)
        totals, docks = found.rest()
        yield from _results(plan, found, totals, docks)


class Stage:
    """The running installation, and what is done to it."""

    def __init__(
        self, plan: Course, processes: Processes, parts: dict[str, Running], folder: Path
    ) -> None:
        self.plan, self.processes, self.parts, self.folder = plan, processes, parts, folder
        self.memory = Memory()
        self.kills: list[str] = []
        self.pages = self.failed_pages = 0
        self._commands: list[subprocess.Popen[bytes]] = []
        self._browser = _browser(processes.web_url)
        self._started = time.monotonic()

    def play(self, chance: random.Random) -> None:
        """Goes through the course; what is overdue happens at once, one after the other."""
        self._started = time.monotonic()
        for at, deed in self._script(chance):
            while self.now < at:
                time.sleep(min(1.0, max(0.0, at - self.now)))
            deed()
            close_old_connections()

    @property
    def now(self) -> float:
        return time.monotonic() - self._started

    def _script(self, chance: random.Random) -> list[tuple[float, Any]]:
        plan = self.plan
        deeds: list[tuple[float, Any]] = [
            (number * SAMPLE, self._look) for number in range(int(plan.seconds / SAMPLE) + 1)
        ]
        for number in range(plan.rollouts):
            # The last one has time to end.
            at = plan.seconds * number / plan.rollouts
            deeds += [(at, lambda number=number: self._roll_out(number)), (at, self._age)]
        turns = itertools.cycle(chance.sample(sorted(self.parts), len(self.parts)))
        for number, name in enumerate(itertools.islice(turns, plan.kills)):
            at = plan.seconds / 2 * (number + chance.random()) / plan.kills
            deeds.append((at, lambda name=name: self._kill(name)))
        return sorted(deeds, key=lambda deed: deed[0])

    def _look(self) -> None:
        docks = {"simulator": self.processes.running[-1]}
        running = {
            name: part.pid for name, part in {**self.parts, **docks}.items() if part.is_alive
        }
        self.memory.look(self.now, running)
        for path in (
            "/admin/",
            "/admin/ota/rollout/",
            "/admin/ota/upgradetask/",
            "/admin/fleet/device/",
        ):
            self.pages += 1
            self.failed_pages += not _answers(self._browser, path)

    def _roll_out(self, number: int) -> None:
        """Upgrades every n-th dock and its aircraft, each to the newest of its model."""
        sns = [spec.sn for spec in plan(self.plan.docks)[number :: self.plan.rollouts]]
        words = [
            "start_upgrade",
            "--with-aircraft",
            "--limit-in-flight",
            str(len(sns)),
            "--sn",
            *sns,
        ]
        _say(f"{self.now:5.0f} s: rollout {number + 1} for {len(sns)} docks")
        # On its own: a command that takes its time must not hold up what comes next.
        self._commands.append(_manage(self.processes, *words))

    def _kill(self, name: str) -> None:
        _say(f"{self.now:5.0f} s: kill -9 {name}")
        self.kills.append(name)
        self.parts[name].kill9()
        self.parts[name].start(wait=name == "redis")

    def _age(self) -> None:
        """Rollouts that have ended are a month older, so that their reports are due to be folded."""
        now = timezone.now()
        young = TaskEvent.objects.filter(kind=TaskEvent.Kind.PROGRESS, at__gt=now - AGE)
        # What a killed bridge had not acknowledged comes again, and must find its line.
        ended = young.filter(task__rollout__finished_at__lt=now - COMES_AGAIN)
        ended.update(at=F("at") - AGE)

    def rest(self) -> tuple[Totals, dict[str, Any]]:
        """Waits until all has ended, stops the docks, and compares both ends."""
        _say(f"{self.now:5.0f} s: waiting for the end of what runs")
        for command in self._commands:
            if command.wait(REST):
                raise RuntimeError(f"start_upgrade ended with {command.returncode}")
        open_tasks = UpgradeTask.objects.open()
        _until(lambda: not open_tasks.exists(), "the end of all tasks", REST)
        back = Device.objects.exclude(presence=Device.Presence.ONLINE).filter(gateway=None)
        _until(lambda: not back.exists(), "the docks' return", REST)
        simulator = self.processes.running[-1]
        simulator.terminate(60)
        docks = json.loads(simulator.output.strip().rpartition("\n")[2])
        _until(lambda: _reports() >= docks["reports"], "the last reports", 60, must=False)
        return _totals(self.plan, docks, self.folder / "docks.json"), docks


@contextmanager
def stage(plan: Course) -> Iterator[Stage]:
    """Servers, processes and docks, all online and with their versions known."""
    with ground.folder() as folder, ExitStack() as stack:
        (folder / "postgres").mkdir()
        started = [
            servers.postgres(folder / "postgres"),
            servers.mosquitto(folder),
            servers.redis(folder),
        ]
        for server in started:
            stack.callback(server.start().end)
        postgres, mosquitto, redis = started
        ground.use(postgres.url)
        stack.callback(connections.close_all)
        processes = Processes(
            _environment(folder, postgres.url, mosquitto.url, redis.url),
            folder,
            ports.free(),
            ports.free(),
        )
        processes.environment |= {
            "PUBLIC_URL": processes.web_url,
            "FIRMWARE_URL": f"http://{ports.HOST}:{processes.firmware_port}",
        }
        stack.callback(processes.end_all)
        organization = make_organization(binding_code=CODE)
        _fill_library(folder, plan.bytes)
        parts = {
            "bridge": processes.bridge(wait=False),
            "firmware": processes.firmware(wait=False),
            "worker": processes.worker(wait=False),
            "beat": processes.beat(wait=False),
            "web": processes.web(wait=False),
        }
        for part in parts.values():
            part.wait_until_ready(180)
        simulator = processes.simulator(
            "--docks", str(plan.docks), "--organization", organization.identifier, "--json",
            "--code", CODE, "--speed", f"{plan.speed:g}", "--state", str(folder / "docks.json"), wait=False,
        )  # fmt: skip
        known = Device.objects.exclude(firmware_version="")
        _until(lambda: known.count() >= 2 * plan.docks, "reports of all devices", 600)
        simulator.wait_for_line("docks online", 120)
        # On a busy machine some are not answered in time and go on unbound: they are adopted.
        binding.adopt(Device.objects.filter(organization=None), organization, timezone.now())
        _say(f"{plan.docks} docks are online")
        yield Stage(plan, processes, parts | {"redis": redis}, folder)


def _environment(folder: Path, database: str, mqtt: str, redis: str) -> Mapping[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SECRET_KEY": settings.SECRET_KEY,
        "DATABASE_URL": database,
        "MQTT_URL": mqtt,
        "REDIS_URL": redis,
        "MQTT_CLIENT_ID": "soak",
        "STORAGE_URL": f"file://{folder}/media",
        "SETTLE_SECONDS": "1",
        "DJI_APP_ID": "soak",
        "DJI_APP_KEY": "soak",
        "DJI_APP_LICENSE": "soak",
        "EVENT_DAYS": KEPT,
    }


def _fill_library(folder: Path, size: int) -> None:
    for series in SERIES.values():
        newer = series.newer
        path = build(folder, series.name, newer.version, newer.released, size)
        packages.add(path, models=series.model_keys)


def _browser(url: str) -> httpx.Client:
    """Somebody who is logged in and has the console open."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("soak"))
    return httpx.Client(
        base_url=url, cookies={"sessionid": client.cookies["sessionid"].value}, timeout=10
    )


def _answers(browser: httpx.Client, path: str) -> bool:
    try:
        return browser.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def _manage(processes: Processes, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 (our own command)
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env=os.environ | processes.environment,
    )


def _until(condition: Any, what: str, seconds: float, *, must: bool = True) -> None:
    try:
        eventually(condition, what, seconds)
    except TimeoutError as error:
        if must:
            raise
        _say(str(error))


def _reports() -> int:
    """Reports in the history, with those that were folded."""
    return _in_history() + _folded()


def _in_history() -> int:
    return TaskEvent.objects.filter(kind=TaskEvent.Kind.PROGRESS).count()


def _folded() -> int:
    return FoldedReports.objects.aggregate(sum=Sum("reports"))["sum"] or 0


def _totals(plan: Course, docks: Mapping[str, Any], state: Path) -> Totals:
    outcomes = docks["outcomes"]
    ended = sum(number for name, number in outcomes.items() if not name.startswith("refused"))
    ok = outcomes.get("ok", 0)
    sent = UpgradeTask.objects.filter(attempt__gt=0)
    due = sent.aggregate(tasks=Count("pk"), again=Sum("retries"))
    return Totals(
        upgrades_planned=plan.docks,  # each is in one of the rollouts
        commands_sent=TaskEvent.objects.filter(kind=TaskEvent.Kind.COMMAND).count(),
        commands_at_docks=docks["commands"],
        upgrades_due=due["tasks"] + (due["again"] or 0),
        upgrades_at_docks=docks["upgrades"],
        reports_of_docks=docks["reports"],
        reports_in_history=_in_history(),
        reports_folded=_folded(),
        proven=UpgradeTask.objects.filter(status=TaskStatus.OK).count(),
        ok_at_docks=ok,
        failed_at_docks=ended - ok,
        open_tasks=UpgradeTask.objects.open().count(),
        foreign_upgrades=ForeignUpgrade.objects.count(),
        wrong_versions=_wrong_versions(json.loads(state.read_text())),
    )


def _wrong_versions(state: Mapping[str, Mapping[str, Any]]) -> int:
    """Devices whose version in the database is not the one that they have."""
    known = dict(Device.objects.filter(sn__in=state).values_list("sn", "firmware_version"))
    return sum(known.get(sn) != device["version"] for sn, device in state.items())


def _results(
    plan: Course, found: Stage, totals: Totals, docks: Mapping[str, Any]
) -> Iterable[Result]:
    wrong = list(disagreements(totals))
    for sentence in wrong:
        _say(sentence)
    note = (
        "; ".join(wrong)
        or f"{plan.seconds / 60:.2g} minutes, {plan.docks} docks, killed: {', '.join(found.kills)}"
    )
    yield Result(TOPIC, "effects that were lost or doubled", len(wrong), goal="<= 0", note=note)
    for name, value in totals._asdict().items():
        yield Result(TOPIC, name.replace("_", " "), value)
    yield Result(TOPIC, "messages that failed", FailedMessage.objects.count(), goal="<= 0")
    yield Result(
        TOPIC,
        "osd rounds late, p99",
        docks["late_p99"],
        unit="s",
        goal="<= 0.25",
        note=f"{docks['rounds']} rounds",
    )
    yield Result(
        TOPIC,
        "pages that did not answer",
        found.failed_pages,
        note=f"of {found.pages}; while the console is down they cannot",
    )
    for name, growth in sorted(found.memory.growth().items()):
        note = f"{growth.memory:.0f} MB at the end, over {growth.seconds / 60:.0f} minutes"
        yield Result(
            TOPIC, f"growth of {name}", 100 * (growth.times - 1), unit="%", goal="<= 5", note=note
        )


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--docks", type=int, default=2000)
    parser.add_argument("--small", action="store_true", help="about a minute; nothing is written")
    parser.add_argument("--seed", type=int, default=1, help="decides who is killed when")
    wanted = parser.parse_args()
    others = machine.watch()
    plan = SMALL if wanted.small else course(wanted.minutes, wanted.docks)
    found = list(soak(plan, wanted.seed))
    Console().print(results.table(found))
    if not wanted.small:
        title = "Everything for a long time, with random kills"
        page.write(
            TOPIC,
            f"{title}: {wanted.minutes:g} minutes, {wanted.docks} docks.",
            found,
            machine.name(),
            others(),
        )
    sys.exit(any(result.what.startswith("effects") and result.ours for result in found))


if __name__ == "__main__":
    main()
