"""Connections to the MQTT broker; the only file that knows paho."""

import collections
import contextlib
import enum
import logging
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils import timezone
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_bridge import metrics
from mqtt_bridge.errors import BrokerUnavailable
from mqtt_bridge.line import Context, Line, Received
from mqtt_bridge.moments import Moment

logger = logging.getLogger(__name__)

T = TypeVar("T")

# s; so often the broker shows that it is there where nobody says anything.
KEEPALIVE = 10
SESSION_EXPIRY = 7 * 24 * 3600  # s; how long an MQTT 5 broker keeps messages for an absent bridge
# So many messages may be under way without an acknowledgement: one batch in the database, and the
# next one on its way meanwhile.
IN_FLIGHT = 4000
# Telemetry that may wait in memory while the database is away; what is older is dropped.
MOST_WAITING = 20_000
STALLED = 1.0  # s
# Of so many commands nobody knows whether they arrived, if a connection breaks off.
MOST_DOUBTFUL = 100
_FAILURE = 0x80  # from here on reason codes say that something failed (MQTT 5, section 2.4)


class _Connection:
    """A paho client with our settings that keeps itself connected."""

    def __init__(self, client_id: str, *, clean: bool) -> None:
        self._clean = clean
        self._five = settings.MQTT_VERSION == "5"
        self._client = self._build(client_id)
        self.connected_since: Moment | None = None
        self.refusal = ""
        self._changed = threading.Condition()
        self._said: object = None

    def _build(self, client_id: str) -> Client:
        version = MQTTProtocolVersion.MQTTv5 if self._five else MQTTProtocolVersion.MQTTv311
        clean = None if self._five else self._clean
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=clean,
            protocol=version,
        )
        client.max_inflight_messages_set(IN_FLIGHT)
        client.max_queued_messages_set(0)
        _authenticate(client)
        if context := self._context(_tls()):
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        return client

    def _context(self, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """What paho makes its sockets with; None for plain ones of its own."""
        return tls

    def start(self) -> None:
        """Connects in the background and stays connected; returns at once."""
        self._spread_reconnects()
        self._client.connect_async(*_host_and_port(), KEEPALIVE, **self._terms())
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_connected(self, seconds: float) -> None:
        """Waits for the connection.

        Raises:
            BrokerUnavailable: it did not come within that time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.connected_since is not None, seconds):
                reason = f": {self.refusal}" if self.refusal else ""
                raise BrokerUnavailable(f"no connection to {_shown_address()}{reason}")

    def _terms(self) -> dict[str, Any]:
        if not self._five:
            return {}
        return {"clean_start": self._clean, "properties": self._session_properties()}

    def _session_properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0 if self._clean else SESSION_EXPIRY
        properties.ReceiveMaximum = IN_FLIGHT
        return properties

    def _spread_reconnects(self) -> None:
        """Many processes that lose one broker must not all come back in the same second."""
        least = random.uniform(0.5, 1.5)  # noqa: S311
        self._client.reconnect_delay_set(least, least * 32)  # type: ignore[arg-type]

    def _on_connect(
        self, _: Client, __: Any, flags: ConnectFlags, code: ReasonCode, terms: Properties | None
    ) -> None:
        if code.is_failure:
            self._say(logging.ERROR, "refused by", str(code))
            return
        self._ping_as_often_as_ever()
        self._on_session(terms)

    def _ping_as_often_as_ever(self) -> None:
        """A broker of MQTT 5 may set a keepalive in the place of ours; paho then pings at that pace alone.

        With a long one or none, nobody would notice a dead connection, nor know how fresh is what docks
        say. More pings than it asks for are always allowed, and it has to answer each (MQTT 5, sections
        3.1.2.10 and 3.12.4).
        """
        asked = self._client.keepalive
        # Paho refuses to change it while connected, because of pings under way: none is yet.
        self._client._keepalive = min(asked, KEEPALIVE) if asked else KEEPALIVE

    def _on_session(self, terms: Properties | None) -> None:
        """What has to be done on each new connection before it counts as one; ``terms`` are MQTT 5's."""
        self._mark_connected()

    def _mark_connected(self) -> None:
        self._say(logging.INFO, "connected to")
        with self._changed:
            self.connected_since = Moment(timezone.now())
            self._changed.notify_all()

    def _on_disconnect(
        self, _: Client, __: Any, flags: DisconnectFlags, code: ReasonCode, ___: Properties | None
    ) -> None:
        with self._changed:
            self.connected_since = None
            self._changed.notify_all()
        self._spread_reconnects()
        if code.is_failure and not self.refusal:
            self._say(logging.WARNING, "lost the connection to", str(code))

    def _on_connect_fail(self, *_: Any) -> None:
        self._say(logging.WARNING, "waiting for", "no answer")

    def _say(self, level: int, what: str, reason: str = "") -> None:
        """Says a state once, however often it is met again."""
        self.refusal = "" if what == "connected to" else reason
        if self._said != (what, reason):
            self._said = (what, reason)
            logger.log(level, "%s %s%s", what, _shown_address(), f" ({reason})" if reason else "")


class Listener(_Connection, Generic[T]):
    """The bridge's connection: a persistent session whose messages are acknowledged by us.

    ``prepare`` makes of each message what ``take`` gives; it runs as they arrive, while the
    bridge waits for its database, and must not raise.
    """

    def __init__(
        self,
        client_id: str,
        filters: Sequence[tuple[str, int]],
        prepare: Callable[[Received], T],
    ) -> None:
        super().__init__(client_id, clean=False)
        self._filters = list(filters)
        self._prepare = prepare
        self._waiting: collections.deque[T] = collections.deque()
        self._arrived = threading.Condition()
        self._taken = threading.Event()
        self._line: Line | None = None
        self._is_woken = False
        self._client.on_subscribe = self._on_subscribe

    def take(self, most: int, seconds: float) -> list[T]:
        """What has arrived, in order; waits up to ``seconds`` while there is nothing."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._is_woken, seconds)
            self._is_woken = False
            self._taken.set()
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def publish(self, topic: str, payload: bytes) -> None:
        """Sends an answer; paho sends it again until the broker has it."""
        self._client.publish(topic, payload, qos=1)

    def silence(self) -> float:
        """How long nothing has come from the broker, not even its answer to a ping; in seconds."""
        line = self._made.line
        return time.monotonic() - line.read_at if line else 0.0

    def wake(self) -> None:
        """Ends a waiting ``take`` early."""
        with self._arrived:
            self._is_woken = True
            self._arrived.notify_all()

    def acknowledge(self, messages: Iterable[Received]) -> None:
        """Tells the broker that it may forget the messages.

        A message of an earlier connection is passed by: the broker sends it again on this one,
        and its number may mean another message by now.
        """
        if line := self._line:
            line.acknowledge([m.mid for m in messages if m.qos and m.session == line.number])

    def _context(self, tls: ssl.SSLContext | None) -> ssl.SSLContext:
        self._made = Context(tls, is_five=self._five, deliver=self._deliver)
        return cast("ssl.SSLContext", self._made)  # it is asked for nothing else

    def _on_session(self, _: Properties | None) -> None:
        self._client.subscribe(list(self._filters))

    def _on_disconnect(self, *told: Any) -> None:
        super()._on_disconnect(*told)
        self.wake()

    def _on_subscribe(
        self, _: Client, __: Any, ___: int, codes: list[ReasonCode], ____: Properties | None
    ) -> None:
        refused = [
            wanted for wanted, code in zip(self._filters, codes, strict=False) if code.is_failure
        ]
        if refused:
            self._say(logging.ERROR, f"may not subscribe to {refused[0]} at")
        else:
            self._mark_connected()
            self.wake()

    def _deliver(self, line: Line, received: Sequence[Received]) -> None:
        """Puts what came at once at the end of what waits."""
        self._line = line
        # Docks retain nothing; an old word would come back at each connection.
        if old := [one.mid for one in received if one.is_retained]:
            line.acknowledge([mid for mid in old if mid])
            received = [one for one in received if not one.is_retained]
        if received and received[0].qos:
            self._let_catch_up()
        prepared = [self._prepare(one) for one in self._that_fit(received)]
        with self._arrived:
            self._waiting.extend(prepared)
            self._arrived.notify()

    def _let_catch_up(self) -> None:
        """Leaves a backlog to the broker while the bridge works on it: here it would only take room.

        If the bridge takes nothing for a while its database is away, and reading goes on.
        """
        while len(self._waiting) > IN_FLIGHT:
            self._taken.clear()
            if not self._taken.wait(STALLED):
                return

    def _that_fit(self, received: Sequence[Received]) -> Sequence[Received]:
        """All but the telemetry for which there is no room."""
        room = MOST_WAITING - len(self._waiting)
        if len(received) <= room:
            return received
        kept = [one for place, one in enumerate(received) if one.qos or place < room]
        metrics.count("messages", len(received) - len(kept), kind="osd", outcome="overflow")
        return kept


class Outcome(enum.Enum):
    """What became of a message."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"  # by the broker, which only MQTT 5 tells
    DOUBTFUL = "unconfirmed"  # it may have arrived
    UNSENT = "unsent"  # surely


class Sender(_Connection):
    """A connection that only publishes; made anew after a failure, so that nothing is sent late.

    Paho does not publish here: what was not acknowledged it would send again on its next
    connection, and a dock might get a command twice.
    """

    def __init__(self) -> None:
        self._line: Line | None = None
        self._window = MOST_DOUBTFUL
        self._answers: dict[int, int] = {}
        super().__init__(f"fleet-ota-sender-{secrets.token_hex(6)}", clean=True)

    def send(self, messages: Sequence[tuple[str, bytes]], seconds: float) -> list[Outcome]:
        """Publishes with QoS 1, some at once; none after one that is doubtful, nor when time is over."""
        until = time.monotonic() + seconds
        found: list[Outcome] = []
        while len(found) < len(messages) and Outcome.DOUBTFUL not in found:
            if time.monotonic() >= until:
                break
            found += self._send_some(messages[len(found) :][: self._window], until)
        return found + [Outcome.UNSENT] * (len(messages) - len(found))

    def _send_some(self, messages: Sequence[tuple[str, bytes]], until: float) -> list[Outcome]:
        """All that went before is answered, so their numbers are free again."""
        if not (line := self._line):
            return [Outcome.UNSENT] * len(messages)
        self._answers = {}
        # If the line breaks, nobody knows how much of it has gone out.
        with contextlib.suppress(OSError, ValueError):
            numbered = [(number, *message) for number, message in enumerate(messages, 1)]
            line.publish(numbered, until - time.monotonic())
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._answers) == len(messages) or self._line is not line,
                until - time.monotonic(),
            )
            return [self._outcome(number) for number, _ in enumerate(messages, 1)]

    def _outcome(self, number: int) -> Outcome:
        if (code := self._answers.get(number)) is None:
            return Outcome.DOUBTFUL
        return Outcome.REFUSED if code >= _FAILURE else Outcome.CONFIRMED

    def _context(self, tls: ssl.SSLContext | None) -> ssl.SSLContext:
        self._made = Context(
            tls, is_five=self._five, deliver=_ignore, acknowledged=self._on_acknowledged
        )
        return cast("ssl.SSLContext", self._made)  # it is asked for nothing else

    def _on_session(self, terms: Properties | None) -> None:
        self._line = self._made.line
        # A broker of MQTT 5 ends the connection of whoever does not keep to this.
        self._window = min(MOST_DOUBTFUL, getattr(terms, "ReceiveMaximum", MOST_DOUBTFUL))
        super()._on_session(terms)

    def _on_disconnect(self, *told: Any) -> None:
        self._line = None
        super()._on_disconnect(*told)

    def _on_acknowledged(self, answers: Mapping[int, int]) -> None:
        with self._changed:
            self._answers |= answers
            self._changed.notify_all()


class Probe(_Connection):
    """A connection that is only made to see whether that is possible."""

    def __init__(self) -> None:
        super().__init__(f"fleet-ota-probe-{secrets.token_hex(6)}", clean=True)

    def ask(self, seconds: float) -> None:
        """Connects, and leaves at once.

        Raises:
            BrokerUnavailable: the broker did not let us in within that time.
        """
        until = time.monotonic() + seconds
        self._client.connect_timeout = seconds
        try:
            self._client.connect(*_host_and_port(), KEEPALIVE, **self._terms())
            while self.connected_since is None and time.monotonic() < until and not self.refusal:
                if self._client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
        except (OSError, ValueError) as error:
            self.refusal = str(error)
        finally:
            is_in = self.connected_since is not None
            self._client.disconnect()
        if not is_in:
            raise BrokerUnavailable(self.refusal or "no answer")

    def _say(self, level: int, what: str, reason: str = "") -> None:
        """Whoever asks is told; a log line for each question would be too many."""
        self.refusal = reason


def _ignore(line: Line, received: Sequence[Received]) -> None:
    """Nobody is sent anything who has subscribed to nothing."""


def _host_and_port() -> tuple[str, int]:
    parts = urlsplit(settings.MQTT_URL)
    return str(parts.hostname), parts.port or (8883 if parts.scheme == "mqtts" else 1883)


def _authenticate(client: Client) -> None:
    parts = urlsplit(settings.MQTT_URL)
    if parts.username:
        client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))


def _tls() -> ssl.SSLContext | None:
    """How connections are encrypted; None where they are not."""
    if urlsplit(settings.MQTT_URL).scheme != "mqtts":
        return None
    context = ssl.create_default_context(cafile=settings.MQTT_CA_FILE or None)
    if settings.MQTT_CLIENT_CERT:
        context.load_cert_chain(settings.MQTT_CLIENT_CERT, settings.MQTT_CLIENT_KEY or None)
    return context


def _shown_address() -> str:
    """The broker's address without user and password."""
    parts = urlsplit(settings.MQTT_URL)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
