"""The Celery application, in real workers."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.utils.imports import symbol_by_name
from pytest_django import Settings

from config.celery import app
from config.worker import Consumer
from tests.processes import ROOT, Processes
from tests.servers import Server


@pytest.mark.services
def test_workers_do_not_look_for_each_other(processes: Processes) -> None:
    first, second = processes.worker(), processes.worker()
    assert "ready." in second.output
    assert "mingle" not in first.output + second.output


@pytest.mark.services
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_worker_that_holds_messages_when_redis_goes_away_does_not_end(
    redis_server: Server,
) -> None:
    connection = app.connection_for_read(redis_server.url)
    channels: list[Any] = [connection.default_channel, connection.channel()]
    for number, channel in enumerate(channels):
        queue = connection.SimpleQueue(f"queue {number}", channel=channel)
        queue.put("a message")
        queue.get(timeout=20)  # and does not acknowledge it
    for channel in channels:
        channel._brpop_start()  # waits for the next one, as a worker does
    redis_server.stop()
    consumer = Consumer.__new__(Consumer)
    slots = {
        "qos_global": False,
        "prefetch_multiplier": 1,
        "pool": SimpleNamespace(num_processes=2),
    }
    vars(consumer).update(app=app, connection=connection, **slots)
    consumer.on_connection_error_after_connected(ConnectionError("Redis went away"))
    assert consumer.connection is None
    for channel in channels:
        channel.qos._on_collect.cancel()  # else they are tried once more when the tests end


def test_workers_have_that_consumer() -> None:
    assert symbol_by_name(app.conf.worker_consumer) is Consumer


def test_what_clears_is_looked_at_within_five_seconds(settings: Settings) -> None:
    """Two ticks at most: one that has begun, and the next."""
    assert 2 * settings.CELERY_BEAT_SCHEDULE["advance"]["schedule"] < 5


def test_a_worker_does_without_the_console() -> None:
    code = (
        "import sys; from config.celery import app; app.loader.init_worker(); print(*sys.modules)"
    )
    environment = {name: v for name, v in os.environ.items() if name != "CELERY_SKIP_CHECKS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment | {"SECRET_KEY": "x"},
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "ota.upgrades.issue" in loaded
    assert not loaded & {"config.urls", "ota.admin", "markdown_it"}
