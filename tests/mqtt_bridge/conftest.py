"""A bridge inside the test's process, over the real broker."""

import contextlib
import threading
import uuid
from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django import Settings

from mqtt_bridge.bridge import Bridge
from tests import routes
from tests.processes import eventually
from tests.servers import Server


@pytest.fixture
def bridge(transactional_db: None, mosquitto: Server, settings: Settings) -> Iterator[Bridge]:
    """Connected and subscribed."""
    settings.MQTT_CLIENT_ID = f"bridge-{uuid.uuid4().hex[:8]}"
    with running_bridge() as running:
        eventually(lambda: running.is_connected, "the bridge's connection")
        yield running


@contextlib.contextmanager
def running_bridge() -> Iterator[Bridge]:
    """A bridge as the settings have it, in a thread."""
    running = Bridge()
    thread = threading.Thread(target=_run, args=[running])
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join()


def _run(bridge: Bridge) -> None:
    try:
        bridge.run()
    finally:
        connections.close_all()


@pytest.fixture
def also(monkeypatch: pytest.MonkeyPatch) -> Iterator[routes.Also]:
    """Lets a function take telemetry too."""
    with routes.more(monkeypatch) as add:
        yield add
