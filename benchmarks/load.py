"""A load of MQTT messages: packets are made before they are sent, and go out many at a time.

Plain Python on a socket, and yet as fast as a program in C: what costs is done before the clock
starts. It runs in a process of its own, without Django, and tells whether it kept its pace.
"""

import itertools
import json
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SAMPLES = Path(__file__).parent.parent / "tests" / "samples"
STAMP = "1000000000000"  # ms; where a message says when it went out
MOST_OPEN = 20_000  # messages that wait for the broker's word
TICK = 0.005  # s between the packets of a load with a rate

Message = tuple[str, bytes]  # topic and payload


class Sent(NamedTuple):
    """How a load went: ``seconds`` until the broker had all, ``late`` how far it fell behind its rate."""

    messages: int
    seconds: float
    late: float


def subscribe(url: str, client_id: str, filters: Iterable[tuple[str, int]]) -> None:
    """Leaves a session of that name at the broker, with these topic filters and their QoS."""
    body = b"\0\1" + b"".join(_text(name) + bytes([qos]) for name, qos in filters)
    with _connect(url, client_id, clean=False) as line:
        line.sendall(_packet(0x82, body))
        _receive(line, 5)
        line.sendall(b"\xe0\0")


def forget(url: str, client_id: str) -> None:
    """Ends the session: a broker goes on keeping messages for who is absent, and dealing shared ones out.

    Copies of each message of all later rounds would be a load of their own.
    """
    with _connect(url, client_id, clean=True) as line:
        line.sendall(b"\xe0\0")


def send(
    url: str, messages: Sequence[Message], qos: int, rate: float = 0, seconds: float = 0
) -> Sent:
    """Publishes the messages once as fast as the broker takes them, or over and over at a rate."""
    with _connect(url, "load", clean=True) as line:
        packets = [_publish(message, qos, mid) for message, mid in _numbered(messages)]
        if rate:
            sent = _pour(line, packets, rate, seconds)
            _await_all(line)
            return sent
        began = time.monotonic()
        _blast(line, packets, qos)
        _await_all(line)
        return Sent(len(packets), time.monotonic() - began, 0)


def progress(docks: Sequence[tuple[str, str]], count: int, *, stamped: bool) -> list[Message]:
    """``ota_progress`` of tasks in turn; ``docks`` are serial numbers with the task's ``bid``.

    ``stamped`` messages get their time when they go out, others are a millisecond apart.
    """
    topic, form = _form("events.ota_progress.download.json", tid="%s", bid="%s", percent="%s")
    since = int(time.time() * 1000) - count
    made = []
    for number, (sn, bid) in zip(range(count), itertools.cycle(docks), strict=False):
        stamp = STAMP if stamped else str(since + number)
        body = form % (f"{number:08d}", bid, stamp, number % 100)
        made.append((topic.replace("SN", sn), body.encode()))
    return made


def telemetry(docks: Sequence[tuple[str, str]], count: int) -> list[Message]:
    """What docks push each two seconds: three groups of their own and one of their aircraft.

    ``docks`` are serial numbers of docks with that of the aircraft.
    """
    own = ("osd.dock2.json", "osd.dock2.power.json", "osd.dock1.link.json")
    forms = [_form(name, tid="%s", bid="%s") for name in own]
    aircraft = _form("osd.aircraft.m3td.json", tid="%s", bid="%s")
    made: list[Message] = []
    for dock, child in itertools.cycle(docks):
        for (topic, form), sn in [*((form, dock) for form in forms), (aircraft, child)]:
            body = form % (f"{len(made):08d}", "bid", STAMP)
            made.append((topic.replace("SN", sn), body.encode()))
        if len(made) >= count:
            return made[:count]
    return made


def _form(name: str, **fields: str) -> tuple[str, str]:
    """Topic and payload of a sample as texts with a place for the time and for the fields."""
    sample = json.loads((SAMPLES / name).read_text())
    payload: dict[str, Any] = sample["payload"]
    percent = fields.pop("percent", None)
    payload |= {"timestamp": "%s", **fields}
    if percent:
        payload["data"]["output"]["progress"]["percent"] = percent
    text = json.dumps(payload, separators=(",", ":"))
    for unquoted in ("timestamp", "percent"):
        text = text.replace(f'"{unquoted}":"%s"', f'"{unquoted}":%s')
    root, product, _, kind = sample["topic"].split("/")
    return f"{root}/{product}/SN/{kind}", text


def _numbered(messages: Iterable[Message]) -> Iterator[tuple[Message, int]]:
    return zip(messages, itertools.cycle(range(1, 65536)), strict=False)


def _blast(line: socket.socket, packets: Sequence[bytes], qos: int) -> None:
    """All of them, with a bounded number that the broker has not confirmed."""
    confirmed = 0
    for start in range(0, len(packets), 1000):
        line.sendall(b"".join(packets[start : start + 1000]))
        while qos and start + 1000 - confirmed > MOST_OPEN:
            confirmed += len(line.recv(65536)) // 4
    while qos and confirmed < len(packets):
        confirmed += len(line.recv(65536)) // 4


def _await_all(line: socket.socket) -> None:
    """Waits until the broker has read all: its answer to a ping comes last.

    A socket that is closed before may take with it what the broker has not read yet.
    """
    line.setblocking(True)
    line.sendall(b"\xc0\0")
    while not line.recv(65536).endswith(b"\xd0\0"):
        pass


def _pour(line: socket.socket, packets: Sequence[bytes], rate: float, seconds: float) -> Sent:
    """So many a second, each with the time at which it goes out."""
    began, at = time.monotonic(), 0.0  # when the next of them are due
    source, sent, late = itertools.cycle(packets), 0, 0.0
    line.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while (now := time.monotonic() - began) < seconds:
            due = int(now * rate) - sent
            stamp = str(int(time.time() * 1000)).encode()
            packed = b"".join(itertools.islice(source, due)).replace(STAMP.encode(), stamp)
            _send_all(line, packed)
            sent += due
            late = max(late, time.monotonic() - began - at)
            at = now + TICK
            while selector.select(max(0.0, at - (time.monotonic() - began))):
                line.recv(65536)
    return Sent(sent, time.monotonic() - began, late)


def _send_all(line: socket.socket, data: bytes) -> None:
    """Sends, and reads what the broker confirms meanwhile, so that neither waits for the other."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[line.send(rest) :]
        except BlockingIOError:
            with suppress(BlockingIOError):
                line.recv(65536)
            time.sleep(0.0005)


def _connect(url: str, client_id: str, *, clean: bool) -> socket.socket:
    parts = urlsplit(url)
    line = socket.create_connection((str(parts.hostname), parts.port or 1883))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = _text("MQTT") + bytes([4, 2 if clean else 0]) + b"\0\0"
    line.sendall(_packet(0x10, head + _text(client_id)))
    answer = _receive(line, 4)
    if answer[3]:
        raise ConnectionError(f"the broker refuses the load: {answer!r}")
    return line


def _publish(message: Message, qos: int, mid: int) -> bytes:
    topic, payload = message
    number = mid.to_bytes(2, "big") if qos else b""
    return _packet(0x30 | qos << 1, _text(topic) + number + payload)


def _packet(head: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        size, low = divmod(size, 128)
        length += bytes([low | (0x80 if size else 0)])
        if not size:
            return bytes([head]) + length + body


def _text(words: str) -> bytes:
    raw = words.encode()
    return len(raw).to_bytes(2, "big") + raw


def _receive(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (piece := line.recv(size - len(found))):
            raise ConnectionError("the broker hung up")
        found += piece
    return found
