"""What goes away in the middle takes nothing with it: database, broker, Redis."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import Q

from ota.models import Rollout, TaskEvent, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from simulator.fleet import plan
from tests import servers
from tests.docks import Wire
from tests.flows.conftest import Story, docks_say
from tests.histories import History
from tests.make import NEW, envelope
from tests.processes import ROOT, Processes, Running, eventually
from tests.servers import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

DOCKS = 12
LOST = "terminal-lost"  # so that some docks end an upgrade without a broker


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL that this test may stop; its folder is open to the user ``postgres``."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-ota-"))
    server = servers.postgres(folder).start()
    yield server
    server.end()
    shutil.rmtree(folder)


def known(url: str, sn: str) -> Callable[[], bool]:
    def is_known() -> bool:
        with psycopg.connect(url) as connection:
            query = "SELECT 1 FROM fleet_device WHERE sn = %s AND firmware_version = %s"
            return connection.execute(query, [sn, NEW]).fetchone() is not None

    return is_known


def migrate(processes: Processes, url: str) -> None:
    environment = os.environ | processes.environment | {"DATABASE_URL": url}
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def report(wire: Wire, sn: str) -> None:
    wire.say(f"thing/product/{sn}/state", envelope({"firmware_version": NEW}))


def test_what_docks_say_while_the_database_is_away_is_brought_in_when_it_is_back(
    processes: Processes, own_postgres: Server, wire: Wire
) -> None:
    migrate(processes, own_postgres.url)
    bridge = processes.bridge(DATABASE_URL=own_postgres.url)
    report(wire, "BEFORE1")
    eventually(known(own_postgres.url, "BEFORE1"), "the first report")
    own_postgres.stop()
    report(wire, "DURING1")
    bridge.wait_for_line("messages wait")
    own_postgres.start()
    eventually(known(own_postgres.url, "DURING1"), "the report of the outage")
    report(wire, "AFTER1")
    eventually(known(own_postgres.url, "AFTER1"), "the report after it")


def test_a_bridge_killed_while_the_database_is_away_loses_nothing(
    processes: Processes, own_postgres: Server, wire: Wire
) -> None:
    migrate(processes, own_postgres.url)
    bridge: Running = processes.bridge(DATABASE_URL=own_postgres.url)
    own_postgres.stop()
    report(wire, "DURING1")
    bridge.wait_for_line("messages wait")
    bridge.kill9()
    own_postgres.start()
    bridge.start()
    eventually(known(own_postgres.url, "DURING1"), "the report of the outage")


@pytest.fixture
def outages(
    request: pytest.FixtureRequest, mosquitto: Server, redis_server: Server
) -> dict[str, Server]:
    """What goes away, wave by wave; a database that is a file stays."""
    found = {"broker": mosquitto, "Redis": redis_server}
    if connection.vendor == "postgresql":
        found["database"] = request.getfixturevalue("postgres")
    return found


def test_a_rollout_in_waves_outlives_whatever_goes_away(
    story: Callable[..., Story], outages: dict[str, Server]
) -> None:
    # As long as the usual times at thirty times the speed: a machine may hold its breath for a while.
    told = story(
        size=20_000, OTA_RETRIES="2", OTA_RETRY_PAUSE_SECONDS="5", OTA_REPLY_SECONDS="10",
        OTA_STALL_SECONDS="40", OTA_VERIFY_SECONDS="30", OFFLINE_AFTER_SECONDS="30",
    )  # fmt: skip
    simulator = told.simulate(DOCKS, "--speed", "30", "--json", "--fault", f"{LOST}={DOCKS // 2}")
    call_command("start_upgrade", "--all", "--waves", "4, 4, rest")
    for number, (name, server) in enumerate(outages.items(), 1):
        wave = UpgradeTask.objects.filter(wave__number=number)
        told.wait(partial(is_fetched, wave), f"wave {number}")
        able = able_to_end(wave, name)
        connection.close()
        server.stop()
        eventually(partial(have_ended, simulator, able), f"{', '.join(able)} without {name}")
        server.start()
    told.wait(Rollout.objects.filter(status=Rollout.Status.FINISHED).exists, "the end")
    assert set(UpgradeTask.objects.values_list("status", flat=True)) == {TaskStatus.OK}
    history = History()
    history.extend(TaskEvent.objects.order_by("pk"))
    history.assert_adds_up()
    assert docks_say(simulator) == {
        "ok": DOCKS // 2,
        "ok without terminal event": DOCKS // 2,
    }


def is_fetched(wave: UpgradeTaskQuerySet) -> bool:
    """Whether the docks of a wave have their packages: without a database nobody gets one."""
    begun = Q(step="upgrade_firmware") | Q(status__in=[TaskStatus.VERIFYING, TaskStatus.OK])
    return wave.exists() and not wave.exclude(begun).exists()


def able_to_end(wave: UpgradeTaskQuerySet, away: str) -> list[str]:
    """The docks of a wave that go on to the end of their upgrades, although something is away."""
    faults = {dock.sn: dock.fault for dock in plan(DOCKS, {LOST: DOCKS // 2})}
    sns = wave.values_list("gateway__sn", flat=True)
    return [sn for sn in sns if away != "broker" or faults[sn] == LOST]


def have_ended(simulator: Running, sns: list[str]) -> bool:
    return all(f"{sn}: upgrade ok" in simulator.output for sn in sns)
