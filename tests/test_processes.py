"""The servers and processes that other tests stand on."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from django.db import connection

from demo import checks, ports
from tests.processes import ROOT, Processes, eventually, group_members
from tests.servers import Server

pytestmark = pytest.mark.services


def test_a_broker_that_was_stopped_comes_back_on_its_port(mosquitto: Server) -> None:
    port = mosquitto.port
    mosquitto.stop()
    assert not checks.mqtt_answers(mosquitto.url)
    mosquitto.start()
    assert checks.mqtt_answers(f"mqtt://127.0.0.1:{port}")


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is the kernel's, on Linux")
def test_a_broker_ends_with_a_test_run_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests import servers;"
        "server = servers.mosquitto(Path(sys.argv[1])).start();"
        "print(server.url, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        url = run.stdout.readline().strip()
        assert checks.mqtt_answers(url)
        run.kill()
    eventually(lambda: not checks.mqtt_answers(url), "the end of the broker", 10)


def test_each_test_gets_an_empty_redis(redis_server: Server) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_a_redis_that_was_stopped_comes_back(redis_server: Server) -> None:
    redis_server.stop()
    assert not checks.redis_answers(redis_server.url)
    redis_server.start()
    assert checks.redis_answers(redis_server.url)


def test_postgres_takes_connections_on_this_machine_only(postgres: Server) -> None:
    with psycopg.connect(postgres.url) as client:
        listens = client.execute("SHOW listen_addresses").fetchone()
    assert listens == ("127.0.0.1",)


def test_the_database_is_one_that_processes_can_share(database_url: str) -> None:
    assert ":memory:" not in database_url
    assert str(connection.settings_dict["NAME"]) in database_url


def test_a_killed_process_leaves_no_child(processes: Processes) -> None:
    worker = processes.worker()
    assert len(group_members(worker.pid)) > 1
    worker.kill9()
    assert not group_members(worker.pid)


def test_beat_ends_when_it_is_asked_to(processes: Processes) -> None:
    assert processes.beat().terminate() == 0


def test_no_server_gets_a_port_that_browsers_refuse_to_open() -> None:
    """Of those in the Fetch standard's list 10080 is the largest."""
    assert 10_080 not in ports.OURS
