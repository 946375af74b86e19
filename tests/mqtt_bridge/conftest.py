"""A bridge inside the test's process, over the real broker."""

import threading
import uuid
from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django import Settings

from mqtt_bridge.bridge import Bridge
from tests.processes import eventually
from tests.servers import Server


@pytest.fixture
def bridge(transactional_db: None, mosquitto: Server, settings: Settings) -> Iterator[Bridge]:
    """Connected and subscribed."""
    settings.MQTT_CLIENT_ID = f"bridge-{uuid.uuid4().hex[:8]}"
    running = Bridge()
    thread = threading.Thread(target=_run, args=[running])
    thread.start()
    eventually(lambda: running.is_connected, "the bridge's connection")
    yield running
    running.stop()
    thread.join()


def _run(bridge: Bridge) -> None:
    try:
        bridge.run()
    finally:
        connections.close_all()
