"""A dock's connection to the broker; the only file that knows aiomqtt."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

import aiomqtt

QOS = 1
KEEPALIVE = 30
TIMEOUT = 10.0
# Seconds for the TCP and TLS handshake. It happens in a thread that nothing can cancel, and a simulator that is
# told to stop has to be gone within five.
CONNECT_TIMEOUT = 3.0


Messages = Sequence[tuple[str, bytes]]  # topics and payloads


class LinkLostError(Exception):
    """The broker cannot be reached, refused the dock, or went away."""


@dataclass(frozen=True)
class Broker:
    """Where the broker is. The password never shows in a representation."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_encrypted: bool = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse `mqtt://user:password@host:1883` or `mqtts://…`. Raises ValueError for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("The port in the broker's address is not a number.") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
            raise ValueError("The broker's address must look like mqtt://user:password@host:1883.")
        is_encrypted = parts.scheme == "mqtts"
        return cls(
            parts.hostname,
            port or (8883 if is_encrypted else 1883),
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            is_encrypted,
        )


class Session:
    """One live connection."""

    def __init__(self, client: aiomqtt.Client, is_encrypted: bool) -> None:
        self._client = client
        self._is_encrypted = is_encrypted

    async def push(self, messages: Messages) -> None:
        """Publish with QoS 0; returns when they are on their way. Raises LinkLostError.

        All go in one write where the line is free: this is what nearly all of a dock's life consists of, and through
        the client each message costs ten times as much.
        """
        if not self._write(messages):
            for topic, payload in messages:
                await self.send(topic, payload, qos=0)

    def _write(self, messages: Messages) -> bool:
        """Write past the client; False where its own messages come first, or the line is full."""
        client = self._client._client
        line = client.socket()
        if line is None or self._is_encrypted or client.want_write():
            return False
        packets = b"".join(_packet(*message) for message in messages)
        try:
            written = line.send(packets)
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkLostError(str(error)) from error
        if written < len(packets):  # whatever came next would stand in the middle of a message
            raise LinkLostError("the broker does not read")
        return True

    async def send(self, topic: str, payload: bytes, qos: int = QOS) -> None:
        """Publish and wait: for the broker's acknowledgement, with QoS 0 until it is on its way.

        Raises LinkLostError.
        """
        try:
            await self._client.publish(topic, payload, qos=qos)
        except aiomqtt.MqttError as error:
            raise LinkLostError(str(error)) from error
        _heed_cancellation()

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield topic and payload of what arrives. Raises LinkLostError when the connection ends."""
        try:
            async for message in self._client.messages:
                if isinstance(message.payload, bytes):
                    yield message.topic.value, message.payload
        except aiomqtt.MqttError as error:
            raise LinkLostError(str(error)) from error


@asynccontextmanager
async def connect(broker: Broker, sn: str, topics: list[str]) -> AsyncIterator[Session]:
    """Connect as the dock `sn`, subscribe to `topics`, and disconnect at the end. Raises LinkLostError."""
    client = _client(broker, sn)
    try:
        async with client:
            await client.subscribe([(topic, QOS) for topic in topics])
            _heed_cancellation()
            yield Session(client, broker.is_encrypted)
    except aiomqtt.MqttError as error:
        raise LinkLostError(str(error)) from error


def _packet(topic: str, payload: bytes) -> bytes:
    """Return a PUBLISH with QoS 0. MQTT 3.1.1: 2.2.3, 3.3."""
    name = topic.encode()
    left = 2 + len(name) + len(payload)
    length = bytearray()
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return b"".join((b"\x30", bytes((*length, left)), len(name).to_bytes(2, "big"), name, payload))


def _heed_cancellation() -> None:
    # Up to Python 3.11 asyncio.wait_for, which aiomqtt uses, forgets a cancellation that arrives together with the
    # broker's acknowledgement; the dock would then go on for ever.
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError


def _client(broker: Broker, sn: str) -> aiomqtt.Client:
    client = aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=broker.password,
        identifier=sn,
        timeout=TIMEOUT,
        keepalive=KEEPALIVE,
        # Otherwise each small message waits 40 ms for the acknowledgement of the one before.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        tls_context=ssl.create_default_context() if broker.is_encrypted else None,
    )
    client.pending_calls_threshold = 100
    client._client.connect_timeout = CONNECT_TIMEOUT
    return client
