"""Who brings packages, a package, and a broker that takes every command."""

import datetime as dt
from pathlib import Path

import pytest
from django.test import Client

from mqtt_bridge import publisher, router
from mqtt_bridge.client import Outcome
from simulator.packages import build
from tests.make import make_listening, make_model
from tests.ota.broker import Broker
from tests.people import log_in


@pytest.fixture
def administrator(client: Client) -> Client:
    log_in(client, "Administrators")
    return client


@pytest.fixture
def dock2(tmp_path: Path) -> bytes:
    make_model("3-2-0")
    return build(tmp_path, "DOCK2", "10.01.3205", dt.date(2024, 11, 7), 300_000).read_bytes()


@pytest.fixture
def willing_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge listens, and the broker confirms each command without any dock that would hear it."""
    router.discover()
    make_listening()
    monkeypatch.setattr(publisher, "connect", lambda: None)
    monkeypatch.setattr(publisher, "publish", lambda messages: [Outcome.CONFIRMED] * len(messages))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Takes the commands; a bridge listens."""
    make_listening()
    fake = Broker()
    monkeypatch.setattr(publisher, "connect", fake.connect)
    monkeypatch.setattr(publisher, "publish", fake.publish)
    return fake
