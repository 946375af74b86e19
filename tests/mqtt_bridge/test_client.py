"""The bridge's connection: what waits in it."""

import threading
from collections.abc import Sequence

import pytest
from django.utils import timezone

from mqtt_bridge import client
from mqtt_bridge.client import IN_FLIGHT, MOST_WAITING, Listener
from mqtt_bridge.line import Line, Received


class NoLine(Line):
    """Where nothing has to be said."""

    def __init__(self) -> None:
        self.number = 1


@pytest.fixture
def listener() -> Listener[Received]:
    return Listener("nobody", [], lambda received: received)


def some(number: int, qos: int = 1) -> Sequence[Received]:
    return [Received("a/b", b"", timezone.now(), qos, 1, 1)] * number


def test_a_backlog_is_left_to_the_broker_while_the_bridge_works_on_it(
    listener: Listener[Received],
) -> None:
    listener._deliver(NoLine(), some(IN_FLIGHT + 100))
    reader = threading.Thread(target=listener._deliver, args=[NoLine(), some(500)])
    reader.start()
    assert len(listener.take(MOST_WAITING, 0)) == IN_FLIGHT + 100
    reader.join()
    assert len(listener.take(MOST_WAITING, 0)) == 500


def test_while_the_bridge_takes_nothing_the_connection_is_read_nevertheless(
    listener: Listener[Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STALLED", 0.01)
    listener._deliver(NoLine(), some(IN_FLIGHT + 100))
    listener._deliver(NoLine(), some(500))
    assert len(listener.take(MOST_WAITING, 0)) == IN_FLIGHT + 600


def test_telemetry_without_room_is_dropped_and_nothing_else(listener: Listener[Received]) -> None:
    listener._deliver(NoLine(), some(MOST_WAITING - 10, qos=0))
    listener._deliver(NoLine(), [*some(100, qos=0), *some(50)])
    taken = listener.take(2 * MOST_WAITING, 0)
    assert sum(one.qos for one in taken) == 50
    assert len(taken) == MOST_WAITING + 50
