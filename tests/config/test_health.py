"""Whether the process serves, whether what it needs answers, and the figures."""

import datetime as dt
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from config import health
from fleet.models import Device
from mqtt_bridge import metrics
from mqtt_bridge.client import Probe
from mqtt_bridge.errors import BrokerUnavailable
from ota.models import Rollout
from ota.states import TaskStatus
from tests.make import (
    make_aircraft,
    make_dock,
    make_listening,
    make_package,
    make_target,
    make_task,
)
from tests.servers import Server

pytestmark = [pytest.mark.django_db, pytest.mark.services]

OK = {"database": "ok", "redis": "ok", "mqtt": "ok"}


def readiness(client: Client) -> tuple[int, dict[str, str]]:
    answer = client.get("/readyz")
    return answer.status_code, json.loads(answer.content)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers is waited for, however busy this machine is."""
    monkeypatch.setattr(health, "PATIENCE", 60)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_process_that_serves_is_healthy(client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


@pytest.mark.parametrize("address", ["/healthz", "/readyz", "/metrics"])
def test_who_posts_is_told_that_it_is_the_wrong_method(address: str) -> None:
    assert Client(enforce_csrf_checks=True).post(address).status_code == 405


@pytest.mark.usefixtures("mosquitto", "redis_server")
def test_it_is_ready_while_all_answer(client: Client) -> None:
    assert readiness(client) == (200, OK)


@pytest.mark.usefixtures("mosquitto")
def test_it_is_not_ready_without_redis(client: Client, redis_server: Server) -> None:
    redis_server.stop()
    assert readiness(client) == (503, OK | {"redis": "no answer"})


@pytest.mark.usefixtures("redis_server")
def test_it_is_not_ready_without_a_broker(client: Client, mosquitto: Server) -> None:
    mosquitto.stop()
    assert readiness(client) == (503, OK | {"mqtt": "no answer"})


@pytest.mark.usefixtures("mosquitto", "redis_server")
def test_it_is_not_ready_without_a_database(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
    assert readiness(client) == (503, OK | {"database": "no answer"})


def test_parts_that_hang_are_asked_at_once_and_not_for_long(
    client: Client, settings: Settings, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{silent}/0"
    settings.MQTT_URL = f"mqtt://127.0.0.1:{silent}"
    monkeypatch.setattr(health, "PATIENCE", 6)
    started = time.monotonic()
    code, answers = readiness(client)
    assert code == 503
    assert answers == {"database": "ok", "redis": "no answer", "mqtt": "no answer"}
    assert time.monotonic() - started < 11  # one after the other takes 12


@pytest.mark.usefixtures("redis_server")
def test_passwords_are_not_told(client: Client, settings: Settings) -> None:
    settings.MQTT_URL = "mqtt://user:secret@127.0.0.1:9"
    settings.REDIS_URL = "redis://user:secret@127.0.0.1:9/0"
    assert b"secret" not in client.get("/readyz").content


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_broker_is_asked_in_the_version_that_is_spoken(
    mosquitto: Server, settings: Settings, version: str
) -> None:
    settings.MQTT_VERSION = version
    Probe().ask(5)
    mosquitto.stop()
    with pytest.raises(BrokerUnavailable, match="refused"):
        Probe().ask(5)


# Figures


def figures(client: Client) -> dict[tuple[str, str], float]:
    """Values by name and labels, the labels as ``a=1,b=2``."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))):
            sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }  # fmt: skip


@pytest.mark.usefixtures("redis_server")
def test_what_processes_counted_is_shown(client: Client) -> None:
    metrics.count("messages", 3, kind="of this test", outcome="handled")
    metrics.flush()
    found = figures(client)
    assert found["fleet_ota_messages_total", "kind=of this test,outcome=handled"] == 3
    assert found["fleet_ota_redis_up", ""] == 1


@pytest.mark.usefixtures("redis_server")
def test_a_histogram_has_all_its_buckets(client: Client) -> None:
    metrics.observe("test_seconds", 0.7)
    metrics.flush()
    found = figures(client)
    buckets = {k[1]: v for k, v in found.items() if k[0] == "fleet_ota_test_seconds_bucket"}
    assert len(buckets) == len(metrics.BUCKETS) + 1
    assert (buckets["le=0.5"], buckets["le=1"], buckets["le=+Inf"]) == (0, 1, 1)
    assert found["fleet_ota_test_seconds_count", ""] == 1
    assert found["fleet_ota_test_seconds_sum", ""] == 0.7


def test_figures_do_without_redis(client: Client, redis_server: Server) -> None:
    redis_server.stop()
    found = figures(client)
    assert found["fleet_ota_redis_up", ""] == 0
    assert found["fleet_ota_tasks", "status=pending"] == 0


@pytest.mark.usefixtures("redis_server")
@pytest.mark.django_db(transaction=True)
def test_figures_do_without_a_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
        found = figures(client)
    assert (found["fleet_ota_database_up", ""], found["fleet_ota_redis_up", ""]) == (0, 1)


@pytest.mark.usefixtures("redis_server")
def test_tasks_are_counted_by_status(client: Client) -> None:
    for status in (TaskStatus.PENDING, TaskStatus.SENT, TaskStatus.SENT):
        make_task(status=status)
    found = figures(client)
    assert found["fleet_ota_tasks", "status=sent"] == 2
    assert found["fleet_ota_tasks", "status=ok"] == 0


@pytest.mark.usefixtures("redis_server")
def test_devices_are_counted_by_presence(client: Client) -> None:
    make_aircraft(make_dock(), presence=Device.Presence.OFF)
    found = figures(client)
    assert found["fleet_ota_devices", "presence=online"] == 1
    assert found["fleet_ota_devices", "presence=off"] == 1
    assert found["fleet_ota_devices", "presence=offline"] == 0


@pytest.mark.usefixtures("redis_server")
def test_the_queue_is_as_old_as_its_oldest_ready_task(client: Client) -> None:
    earlier = timezone.now() - dt.timedelta(minutes=5)
    make_task(ready_at=earlier, is_ready=True)
    make_task(ready_at=earlier - dt.timedelta(hours=1), is_ready=False)
    assert figures(client)["fleet_ota_queue_age_seconds", ""] == pytest.approx(300, abs=5)


@pytest.mark.usefixtures("redis_server")
def test_packages_are_counted_by_state_and_the_damaged_ones_beside(client: Client) -> None:
    make_task()  # with its package
    make_task(make_dock())
    package = make_package("14.03.0915", state="draft", problem="its file is gone")
    make_target(make_task(), make_dock(), package)
    make_target(make_task(), make_dock(), package)
    found = figures(client)
    assert found["fleet_ota_packages", "state=available"] == 1
    assert found["fleet_ota_damaged_packages", ""] == 1


@pytest.mark.usefixtures("redis_server")
def test_a_bridge_that_listens_is_up(client: Client) -> None:
    assert figures(client)["fleet_ota_bridge_up", ""] == 0
    make_listening()
    assert figures(client)["fleet_ota_bridge_up", ""] == 1


@pytest.mark.usefixtures("redis_server")
def test_a_bridge_that_is_away_is_counted_beside_the_one_that_is_up(
    client: Client, settings: Settings
) -> None:
    settings.MQTT_SHARED_GROUP = "fleet"
    make_listening()
    assert figures(client)["fleet_ota_bridges_away", ""] == 0
    make_listening(connected_since=None)
    found = figures(client)
    assert (found["fleet_ota_bridge_up", ""], found["fleet_ota_bridges_away", ""]) == (1, 1)


@pytest.mark.usefixtures("redis_server")
def test_every_figure_says_what_it_means(client: Client) -> None:
    metrics.count("commands", outcome="confirmed")
    metrics.flush()
    text = client.get("/metrics").content.decode()
    assert re.search(r"^# HELP fleet_ota_commands_total \w.+\.$", text, re.MULTILINE)
    assert "# TYPE fleet_ota_commands_total counter" in text


@pytest.mark.usefixtures("redis_server")
def test_tasks_of_rollouts_that_have_ended_are_not_counted_again(client: Client) -> None:
    Rollout.objects.create(name="old", finished_at=timezone.now(), final_counts={"ok": 7000})
    make_task(status=TaskStatus.OK)
    assert figures(client)["fleet_ota_tasks", "status=ok"] == 7001
