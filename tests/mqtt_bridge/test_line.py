"""The bridge's socket: what is taken out of the stream, and what is left to paho."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import pytest

from mqtt_bridge.line import Line, MalformedPublish, Received

SUBACK = b"\x90\x03\x00\x01\x01"
PINGRESP = b"\xd0\x00"


class Ends(NamedTuple):
    """Ours, the broker's, what was delivered at once, and what was acknowledged."""

    line: Line
    broker: socket.socket
    delivered: list[list[Received]]
    acknowledged: list[Mapping[int, int]]


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Over MQTT 3.1.1 unless the test says 5."""
    ours, broker = socket.socketpair()
    ours.setblocking(False)
    delivered: list[list[Received]] = []
    acknowledged: list[Mapping[int, int]] = []
    is_five = getattr(request, "param", 4) == 5
    line = Line(
        ours,
        is_five=is_five,
        deliver=lambda _, found: delivered.append([*found]),
        acknowledged=acknowledged.append,
    )
    yield Ends(line, broker, delivered, acknowledged)
    line.close()
    broker.close()


def publish(payload: bytes, *, head: int = 0x32, mid: int = 7, properties: bytes = b"") -> bytes:
    """On the topic ``a/b``, with QoS 1 unless the head says otherwise."""
    number = mid.to_bytes(2, "big") if head & 6 else b""
    body, size = b"\x00\x03a/b" + number + properties + payload, b""
    left = len(body)
    while left > 127:
        size, left = size + bytes([left % 128 | 128]), left // 128
    return bytes([head]) + size + bytes([left]) + body


def read(line: Line) -> bytes:
    """All that paho gets to see now."""
    found = b""
    while True:
        try:
            found += line.recv(1)
        except BlockingIOError:
            return found


def test_messages_that_came_together_are_delivered_together_and_paho_sees_none(ends: Ends) -> None:
    ends.broker.sendall(publish(b"one", mid=1) + publish(b"two", mid=258))
    assert read(ends.line) == b""
    (found,) = ends.delivered
    assert [(one.topic, one.payload, one.mid) for one in found] == [
        ("a/b", b"one", 1),
        ("a/b", b"two", 258),
    ]


def test_other_packets_are_left_to_paho_whole_and_in_order(ends: Ends) -> None:
    ends.broker.sendall(SUBACK + publish(b"one") + PINGRESP)
    assert ends.line.recv(2) == SUBACK[:2]
    assert ends.line.pending() == len(SUBACK + PINGRESP) - 2
    assert read(ends.line) == SUBACK[2:] + PINGRESP


def test_a_message_that_comes_in_pieces_is_delivered_once_it_is_whole(ends: Ends) -> None:
    packet = publish(b"x" * 300)
    for place in range(len(packet)):
        ends.broker.sendall(packet[place : place + 1])
        assert read(ends.line) == b""
        assert bool(ends.delivered) is (place == len(packet) - 1)
    assert ends.delivered[0][0].payload == b"x" * 300


class Trickle:
    """A socket on which few bytes come at a time."""

    def __init__(self, packets: bytes) -> None:
        self._rest = memoryview(packets)

    def recv(self, most: int) -> bytes:
        if not self._rest:
            raise BlockingIOError
        came, self._rest = bytes(self._rest[:1000]), self._rest[1000:]
        return came


# Copied anew with each of its pieces this message would take minutes.
@pytest.mark.timeout(60)
def test_a_large_message_in_many_pieces_holds_up_nobody() -> None:
    found: list[Received] = []
    packets = publish(b"x" * 50_000_000) + publish(b"after it")
    inner = cast("socket.socket", Trickle(packets))
    line = Line(inner, is_five=False, deliver=lambda _, received: found.extend(received))
    while len(found) < 2:
        read(line)
    assert [len(message.payload) for message in found] == [50_000_000, 8]


@pytest.mark.parametrize("place", [1, 2, 3, 4, 30_000])  # the first three end within its length
def test_what_came_around_a_large_message_in_pieces_is_delivered_too(
    place: int, ends: Ends
) -> None:
    small, large = publish(b"one"), publish(b"x" * 60_000)
    ends.broker.sendall(small + large[:place])
    assert read(ends.line) == b""
    ends.broker.sendall(large[place:] + SUBACK + small[:3])
    assert read(ends.line) == SUBACK
    ends.broker.sendall(small[3:])
    read(ends.line)
    sizes = [[len(message.payload) for message in found] for found in ends.delivered]
    assert sizes == [[3], [60_000], [3]]


def test_without_qos_there_is_no_number(ends: Ends) -> None:
    ends.broker.sendall(publish(b"one", head=0x30))
    read(ends.line)
    ((one,),) = ends.delivered
    assert (one.payload, one.qos, one.mid) == (b"one", 0, 0)


def test_a_retained_message_is_told_from_others(ends: Ends) -> None:
    ends.broker.sendall(publish(b"one", head=0x33))
    read(ends.line)
    assert ends.delivered[0][0].is_retained


def test_a_message_that_is_sent_again_says_so(ends: Ends) -> None:
    ends.broker.sendall(publish(b"one") + publish(b"two", head=0x3A))
    read(ends.line)
    assert [message.is_again for message in ends.delivered[0]] == [False, True]


@pytest.mark.parametrize("ends", [5], indirect=True)
@pytest.mark.parametrize("properties", [b"\x00", b"\x02\x01\x01", b"\x80\x01" + b"\x01" * 128])
def test_properties_of_mqtt_5_are_passed_by(ends: Ends, properties: bytes) -> None:
    ends.broker.sendall(publish(b"one", properties=properties))
    read(ends.line)
    assert ends.delivered[0][0].payload == b"one"


@pytest.mark.parametrize("ends", [5], indirect=True)
@pytest.mark.parametrize(
    "packet",
    [
        b"\x32\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x32\x04\x00\x09ab",  # a topic longer than the packet
        b"\x30\x00",  # no topic
        b"\x30\x01\x00",
        publish(b"", properties=b"\x7f"),  # properties longer than the packet
        publish(b"", properties=b"\xff\xff\xff\xff\xff"),
    ],
)
def test_what_is_not_mqtt_breaks_the_line(ends: Ends, packet: bytes) -> None:
    ends.broker.sendall(packet)
    with pytest.raises(MalformedPublish):
        read(ends.line)


def test_a_message_that_cannot_be_delivered_breaks_the_line_instead_of_the_thread_that_reads_it() -> (
    None
):
    ours, broker = socket.socketpair()

    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    with contextlib.closing(Line(ours, is_five=False, deliver=fail)) as line, broker:
        broker.sendall(publish(b"hello"))
        with pytest.raises(MalformedPublish, match="ValueError: no such thing"):
            line.recv(1)


def test_a_batch_is_acknowledged_in_one_write(ends: Ends) -> None:
    ends.line.acknowledge([1, 258])
    assert ends.broker.recv(100) == b"\x40\x02\x00\x01\x40\x02\x01\x02"


@pytest.mark.parametrize(("ends", "rest"), [(4, b""), (5, b"\0")], indirect=["ends"])
def test_messages_are_published_in_one_write(ends: Ends, rest: bytes) -> None:
    ends.line.publish([(1, "a/b", b"one"), (258, "a/b", b"x" * 20_000)], 20)
    expected = publish(b"one", mid=1, properties=rest)
    expected += publish(b"x" * 20_000, mid=258, properties=rest)
    assert ends.broker.recv(100_000) == expected


def test_what_the_broker_says_of_our_messages_is_told_together_and_paho_sees_none(
    ends: Ends,
) -> None:
    ends.broker.sendall(b"\x40\x02\x00\x01" + PINGRESP + b"\x40\x03\x01\x02\x87")
    assert read(ends.line) == PINGRESP
    assert ends.acknowledged == [{1: 0, 258: 0x87}]


def test_on_a_line_on_which_paho_publishes_it_hears_what_the_broker_says() -> None:
    ours, broker = socket.socketpair()
    ours.setblocking(False)
    with ours, broker:
        broker.sendall(b"\x40\x02\x00\x01")
        line = Line(ours, is_five=False, deliver=lambda *_: None)
        assert read(line) == b"\x40\x02\x00\x01"


def test_on_a_line_that_broke_nothing_is_acknowledged(ends: Ends) -> None:
    ends.line.close()
    ends.line.acknowledge([1])


def test_a_line_that_closes_while_it_waits_for_the_broker_acknowledges_nothing(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing:
        """Full, and closed by paho's thread before anybody waits for it."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def send(self, data: bytes) -> int:
            self.inner.close()
            raise BlockingIOError

    monkeypatch.setattr(ends.line, "_inner", Closing(ends.line._inner))
    ends.line.acknowledge([1])


def test_the_end_of_the_line_is_told_to_paho(ends: Ends) -> None:
    ends.broker.sendall(publish(b"one"))
    assert read(ends.line) == b""
    ends.broker.close()
    assert ends.line.recv(1) == b""


def test_a_packet_that_the_broker_takes_slowly_goes_out_whole(ends: Ends) -> None:
    packet, got = bytes(range(256)) * 4096, bytearray()

    def take() -> None:
        while len(got) < len(packet):
            got.extend(ends.broker.recv(10_000))

    reader = threading.Thread(target=take)
    reader.start()
    assert ends.line.send(packet) == len(packet)
    reader.join()
    assert got == packet
