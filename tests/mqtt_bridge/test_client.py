"""The bridge's connection and what waits in it; the workers' connection and what becomes of commands."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest
from django.utils import timezone
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_bridge import client
from mqtt_bridge.client import (
    IN_FLIGHT,
    MOST_DOUBTFUL,
    MOST_WAITING,
    Listener,
    Outcome,
    Sender,
)
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


class Noting(Line):
    """Keeps what is acknowledged on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.acknowledged: list[int] = []

    def acknowledge(self, mids: Iterable[int]) -> None:
        self.acknowledged += mids


def test_what_came_over_an_earlier_line_is_not_acknowledged_on_this_one(
    listener: Listener[Received],
) -> None:
    """There its number may be that of another message, which nobody has brought in."""
    old, new = (Received("a/b", b"", timezone.now(), 1, 7, number) for number in (1, 2))
    line = Noting(2)
    listener._deliver(line, [new])
    listener.acknowledge([old])
    assert line.acknowledged == []
    listener.acknowledge([new])
    assert line.acknowledged == [7]


def test_what_a_broker_had_retained_is_acknowledged_and_not_taken(
    listener: Listener[Received],
) -> None:
    line = Noting(1)
    fresh = Received("a/b", b"", timezone.now(), 1, 8, 1)
    listener._deliver(line, [fresh._replace(mid=7, is_retained=True), fresh])
    assert [one.mid for one in listener.take(10, 0)] == [8]
    assert line.acknowledged == [7]


class Broker(Line):
    """Takes down how many it is sent at once, and answers as it is told; None is the line's end."""

    def __init__(self, answer: Callable[[list[int]], Mapping[int, int] | None]) -> None:
        self.sent: list[int] = []
        self.answer = answer
        self.sender = Sender()

    def publish(self, messages: Iterable[tuple[int, str, bytes]], seconds: float) -> None:
        numbers = [number for number, _, _ in messages]
        self.sent.append(len(numbers))
        if (answers := self.answer(numbers)) is None:
            self.sender._line = None
            raise BrokenPipeError
        self.sender._on_acknowledged(answers)

    def ask(self, number: int, most: int = 0, seconds: float = 20) -> list[Outcome]:
        """Sends so many messages over a connection on which ``most`` may be open."""
        terms = Properties(PacketTypes.CONNACK)  # type: ignore[no-untyped-call]
        if most:
            terms.ReceiveMaximum = most
        self.sender._made.line = self
        self.sender._on_session(terms)
        return self.sender.send([("a/b", b"")] * number, seconds)


def taken(numbers: list[int], code: int = 0) -> dict[int, int]:
    return dict.fromkeys(numbers, code)


def test_no_more_commands_are_under_way_than_a_broker_takes() -> None:
    broker = Broker(taken)
    assert broker.ask(7, most=3) == [Outcome.CONFIRMED] * 7
    assert broker.sent == [3, 3, 1]


def test_a_broker_that_says_nothing_of_it_gets_only_so_many_at_once() -> None:
    broker = Broker(taken)
    broker.ask(MOST_DOUBTFUL + 1)
    assert broker.sent == [MOST_DOUBTFUL, 1]


def test_what_a_broker_refuses_is_told_from_what_it_takes_and_holds_up_nothing() -> None:
    nobody_listens, not_authorized = 0x10, 0x87
    codes = iter([nobody_listens, not_authorized, 0])
    broker = Broker(lambda numbers: taken(numbers, next(codes)))
    assert broker.ask(3, most=1) == [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.CONFIRMED]


def test_once_a_command_is_doubtful_no_others_are_sent() -> None:
    broker = Broker(lambda numbers: {1: 0} if len(numbers) == 2 else {})
    found = [Outcome.CONFIRMED, Outcome.DOUBTFUL, Outcome.UNSENT, Outcome.UNSENT]
    assert broker.ask(4, most=2, seconds=0.01) == found
    assert broker.sent == [2]


def test_commands_whose_line_broke_are_doubtful_at_once() -> None:
    broker = Broker(lambda _: None)
    assert broker.ask(2, most=1) == [Outcome.DOUBTFUL, Outcome.UNSENT]


def test_without_a_line_nothing_was_sent() -> None:
    assert Sender().send([("a/b", b"")], 0.01) == [Outcome.UNSENT]
