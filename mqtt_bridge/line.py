"""Our sockets to the broker: what comes and goes in numbers is handled here, and the rest left to paho.

Paho reads a packet in three or more calls of ``recv``, one packet for each ``select``, and
acknowledges each with a ``send`` of its own: 35 us a message, more than all that is done with it
afterwards. Here a chunk is read at once, its PUBLISH packets are delivered together, and a batch
is acknowledged in one write. Commands are written together too, and once: what was not
acknowledged paho would send again on its next connection. Connecting, subscribing, pings and every
other packet stay paho's: it gets this object as its socket (``Client.tls_set_context``), with or without TLS.
"""

import contextlib
import datetime as dt
import itertools
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from django.utils import timezone

logger = logging.getLogger(__name__)

CHUNK = 256 * 1024
SEND_TIME = 30.0  # s for a packet to a broker that does not read
_PUBLISH, _QOS_1, _PUBACK = 3, b"\x32", b"\x40\x02"

_numbers = itertools.count(1)


class Received(NamedTuple):
    """A message as it came; ``mid`` is 0 where it needs no acknowledgement.

    ``session`` is the number of its line: only there the acknowledgement means anything.
    """

    topic: str
    payload: bytes
    received_at: dt.datetime
    qos: int
    mid: int
    session: int
    is_retained: bool = False
    is_again: bool = False  # the broker has sent it before, and nobody acknowledged it


Deliver = Callable[["Line", Sequence[Received]], None]
# What the broker says of what we published: reason codes by number (MQTT 5, section 3.4.2.1; before 0).
Acknowledged = Callable[[Mapping[int, int]], None]


class Context:
    """What paho takes for an SSL context: makes a ``Line`` of each new socket.

    ``tls`` is the real context; without one the line is not encrypted. With ``acknowledged`` only
    ``Line.publish`` publishes, and paho nothing. ``line`` is the one made last.
    """

    # Paho compares no names then: with TLS the real context does, without there is none.
    check_hostname = True

    def __init__(
        self,
        tls: ssl.SSLContext | None,
        *,
        is_five: bool,
        deliver: Deliver,
        acknowledged: Acknowledged | None = None,
    ) -> None:
        self._tls = tls
        self._is_five = is_five
        self._deliver = deliver
        self._acknowledged = acknowledged
        self.line: Line | None = None

    def wrap_socket(
        self, raw: socket.socket, server_hostname: str, do_handshake_on_connect: bool
    ) -> "Line":
        if self._tls:
            raw = self._tls.wrap_socket(
                raw,
                server_hostname=server_hostname,
                do_handshake_on_connect=do_handshake_on_connect,
            )
        self.line = Line(
            raw,
            is_five=self._is_five,
            deliver=self._deliver,
            acknowledged=self._acknowledged,
        )
        return self.line


class Line:
    """One connection. Any thread may send; whole packets go out one after the other.

    ``number`` tells it from all others of this process.
    """

    def __init__(
        self,
        inner: socket.socket,
        *,
        is_five: bool,
        deliver: Deliver,
        acknowledged: Acknowledged | None = None,
    ) -> None:
        self.number = next(_numbers)
        self._inner = inner
        self._is_five = is_five
        self._deliver = deliver
        self._acknowledged = acknowledged
        self._pieces: list[bytes] = []  # read, and the packet is not whole yet
        self._missing = 0  # bytes of it, as far as its length is known
        self._others = bytearray()  # packets for paho
        self._packet = threading.Lock()  # held for a whole packet
        self._call = threading.Lock()  # OpenSSL takes one call at a time
        self.read_at = time.monotonic()  # when anything came last

    # What paho calls.

    def recv(self, most: int) -> bytes:
        """Bytes of packets that are paho's; all others that came are delivered on the way.

        Raises:
            BlockingIOError: none have come (over TLS also ``ssl.SSLWantReadError``).
            MalformedPublish: what came is not MQTT.
        """
        if not self._others:
            with self._call:
                self._ask_for_more()
                chunk = self._inner.recv(CHUNK)
            if not chunk:
                return b""
            self.read_at = time.monotonic()
            self._read(chunk)
        if not self._others:
            raise BlockingIOError
        taken = bytes(self._others[:most])
        del self._others[:most]
        return taken

    def pending(self) -> int:
        """How many bytes can be had although the socket itself has nothing to read."""
        inner = self._inner
        return len(self._others) + (inner.pending() if isinstance(inner, ssl.SSLSocket) else 0)

    def send(self, data: bytes | bytearray, seconds: float = SEND_TIME) -> int:
        """Sends all of it.

        Raises:
            TimeoutError: the broker does not read; the line is of no use any more.
        """
        until = time.monotonic() + seconds
        with self._packet:
            rest = memoryview(data)
            while rest:
                rest = rest[self._send_some(rest) :]
                if rest and time.monotonic() > until:
                    self._inner.shutdown(socket.SHUT_RDWR)
                    raise TimeoutError("the broker does not read")
        return len(data)

    def do_handshake(self) -> None:
        if isinstance(self._inner, ssl.SSLSocket):
            self._inner.do_handshake()

    def settimeout(self, seconds: float | None) -> None:
        self._inner.settimeout(seconds)

    def setblocking(self, flag: bool) -> None:
        self._inner.setblocking(flag)

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()

    # What we call.

    def acknowledge(self, mids: Iterable[int]) -> None:
        """One PUBACK for each; the same four bytes in MQTT 3.1.1 and 5.

        On a line that has broken nothing is sent: the broker delivers the messages again.
        """
        if packets := b"".join([_PUBACK + mid.to_bytes(2, "big") for mid in mids]):
            with contextlib.suppress(OSError, ValueError):  # it may be closed by now
                self.send(packets)

    def publish(self, messages: Iterable[tuple[int, str, bytes]], seconds: float) -> None:
        """Sends number, topic and payload of each with QoS 1, together and never again.

        Raises:
            OSError: the line broke; any part of it may have gone out.
        """
        self.send(b"".join([self._publication(*message) for message in messages]), seconds)

    def _publication(self, mid: int, topic: str, payload: bytes) -> bytes:
        name = topic.encode()
        head = len(name).to_bytes(2, "big") + name + mid.to_bytes(2, "big")
        head += b"\0" if self._is_five else b""  # no properties
        return _QOS_1 + _written(len(head) + len(payload)) + head + payload

    def _send_some(self, data: memoryview) -> int:
        try:
            with self._call:
                return self._inner.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            select.select([], [self._inner], [], 1)
            return 0

    def _ask_for_more(self) -> None:
        """Has TCP acknowledge at once: until then a broker holds back its words on what we published.

        By itself TCP waits 40 ms, in which a hundred commands go out.
        """
        if self._acknowledged and hasattr(socket, "TCP_QUICKACK"):  # Linux alone has it
            with contextlib.suppress(OSError):
                self._inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _read(self, chunk: bytes) -> None:
        """Raises MalformedPublish whatever goes wrong: of that paho makes a new connection, of all else its end."""
        try:
            if self._pieces:
                self._add(chunk)
            else:
                self._take_apart(chunk)
        except MalformedPublish:
            raise
        except Exception as error:
            logger.exception("what came from the broker cannot be taken in")
            raise MalformedPublish(f"{type(error).__name__}: {error}") from error

    def _add(self, chunk: bytes) -> None:
        """More of a packet that is not whole yet.

        A large one is put together once, at its end: with each chunk it would hold up all others.
        """
        self._pieces.append(chunk)
        self._missing -= len(chunk)
        if self._missing <= 0:
            raw, self._pieces = b"".join(self._pieces), []
            self._take_apart(raw)

    def _take_apart(self, raw: bytes) -> None:
        """Delivers the packets that are whole and ours, and keeps the others for paho."""
        start, found, now = 0, [], timezone.now()
        answers: dict[int, int] = {}
        while bounds := _bounds(raw, start):
            body, end = bounds
            head = raw[start]
            if head >> 4 == _PUBLISH and head & 6 < 4:
                found.append(self._received(raw, body, end, head, now))
            elif head == _PUBACK[0] and self._acknowledged:
                mid = int.from_bytes(raw[body : body + 2], "big")
                answers[mid] = raw[body + 2] if end > body + 2 else 0
            else:
                self._others += raw[start:end]
            start = end
        if start < len(raw):
            self._pieces, self._missing = [raw[start:]], _missing(raw, start)
        if found:
            self._deliver(self, found)
        if answers and self._acknowledged:
            self._acknowledged(answers)

    def _received(self, raw: bytes, body: int, end: int, head: int, now: dt.datetime) -> Received:
        """MQTT 3.1.1 and 5, section 3.3: topic, number, properties (only 5), payload."""
        if end - body < 2:
            raise MalformedPublish(f"a message of {end - body} bytes has no topic")
        at = body + 2 + (raw[body] << 8 | raw[body + 1])
        topic = raw[body + 2 : at].decode(errors="replace")
        qos, mid = head >> 1 & 3, 0
        if qos:
            mid, at = int.from_bytes(raw[at : at + 2], "big"), at + 2
        if self._is_five and (found := _length(raw, at, end)):
            at = sum(found)
        if at > end:
            raise MalformedPublish(f"a message of {end - body} bytes ends within its head")
        flags = head & 1 == 1, head & 8 == 8
        return Received(topic, raw[at:end], now, qos, mid, self.number, *flags)


class MalformedPublish(ConnectionError):
    """What the broker sends is not MQTT; only a new connection helps."""


def _bounds(raw: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of a packet begins and ends; None while it has not come whole."""
    if not (found := _length(raw, start + 1, len(raw))):
        return None
    body, size = found
    return (body, body + size) if body + size <= len(raw) else None


def _missing(raw: bytes, start: int) -> int:
    """How many bytes a packet that has not come whole lacks; 0 while its length is not known."""
    found = _length(raw, start + 1, len(raw))
    return sum(found) - len(raw) if found else 0


def _written(number: int) -> bytes:
    """A number in as many bytes as it takes, as ``_length`` reads it."""
    written = b""
    while number > 127:
        written, number = written + bytes([number & 127 | 128]), number >> 7
    return written + bytes([number])


def _length(raw: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Where a number of one to four bytes ends, and the number (MQTT 5, section 1.5.5).

    None if it does not end before ``end``.

    Raises:
        MalformedPublish: it is longer than four bytes.
    """
    if at + 1 < end and raw[at + 1] < 128 <= raw[at]:
        return at + 2, raw[at] & 127 | raw[at + 1] << 7  # nearly always
    number = 0
    for place in range(at, min(at + 4, end)):
        number |= (raw[place] & 127) << (7 * (place - at))
        if raw[place] < 128:
            return place + 1, number
    if at + 4 <= end:
        raise MalformedPublish("a length has more than four bytes")
    return None
