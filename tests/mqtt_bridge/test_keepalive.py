"""How a connection is known to live where the broker, as MQTT 5 lets it, sets the keepalive."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from pytest_django import Settings

from mqtt_bridge import client
from mqtt_bridge.client import Listener
from mqtt_bridge.line import Received
from tests.processes import eventually

CONNECT, SUBSCRIBE, PINGREQ = 0x10, 0x82, 0xC0
NONE, LONG = 0, 3600


class Broker:
    """Speaks as much of MQTT 5 as a bridge needs, and sets the keepalive.

    ``asked`` is what each connection wanted it to be. It answers ``most`` pings, and then says nothing.
    """

    def __init__(self, keepalive: int, most: int) -> None:
        self.asked: list[int] = []
        self.pings = threading.Semaphore(0)
        self._keepalive = keepalive
        self._most = most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                with line, line.makefile("rb") as packets:
                    while head := packets.read(2):
                        self._answer(line, head[0], packets.read(head[1]))

    def _answer(self, line: socket.socket, kind: int, body: bytes) -> None:
        if kind == CONNECT:
            self.asked.append(int.from_bytes(body[8:10], "big"))
            line.sendall(b"\x20\x06\0\0\x03\x13" + self._keepalive.to_bytes(2, "big"))
        elif kind == SUBSCRIBE:
            line.sendall(b"\x90\x04" + body[:2] + b"\0\x01")
        elif kind == PINGREQ and self._most:
            self._most -= 1
            line.sendall(b"\xd0\0")
            self.pings.release()

    def close(self) -> None:
        # Closing alone would leave the thread that accepts waiting for ever.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def listening(settings: Settings, keepalive: int, most: int) -> Iterator[Broker]:
    """A broker that sets this keepalive, with a bridge's connection to it."""
    broker = Broker(keepalive, most)
    settings.MQTT_VERSION, settings.MQTT_URL = "5", broker.url
    listener: Listener[Received] = Listener("nobody", [("a/b", 1)], lambda received: received)
    thread = threading.Thread(target=broker.serve)
    thread.start()
    listener.start()
    try:
        yield broker
    finally:
        listener.stop()
        broker.close()
        thread.join()


@pytest.mark.parametrize("keepalive", [NONE, LONG])
def test_a_broker_that_asks_for_no_pings_or_few_is_pinged_as_often_as_any_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, keepalive: int
) -> None:
    monkeypatch.setattr(client, "KEEPALIVE", 1)
    with listening(settings, keepalive, most=2) as broker:
        assert broker.pings.acquire(timeout=10)
        assert broker.pings.acquire(timeout=10)


def test_a_broker_that_asks_for_more_pings_gets_them(settings: Settings) -> None:
    with listening(settings, 1, most=2) as broker:
        assert broker.pings.acquire(timeout=5)
        assert broker.pings.acquire(timeout=5)


def test_a_connection_without_a_keepalive_that_is_dead_is_made_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KEEPALIVE", 1)
    with listening(settings, NONE, most=0) as broker:
        eventually(lambda: len(broker.asked) > 1, "the next connection")
        assert broker.asked[:2] == [1, 1]
