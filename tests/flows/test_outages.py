"""A database that goes away in the middle takes nothing with it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.docks import Wire
from tests.make import NEW, envelope
from tests.processes import ROOT, Processes, Running, eventually
from tests.servers import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


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
