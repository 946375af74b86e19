"""Bytes to typed messages and back; plain Python.

Devices send keys, values and methods that no document names, so decoding is lenient: what
cannot be understood is dropped key by key and named in ``Message.dropped``; the rest counts.
"""

import datetime as dt
import functools
import hashlib
import types
import typing
from collections.abc import Hashable
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

import msgspec

from mqtt_bridge.errors import BadMessage
from mqtt_bridge.topics import Kind, Topic

T = TypeVar("T")

Text = Annotated[str, msgspec.Meta(max_length=64)]
Int = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
# A dock names itself and its aircraft; a list that is longer is none of a dock's.
Few = Annotated[list[T], msgspec.Meta(max_length=10)]
BigInt = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

# A device's clock is believed within these limits; outside them the time of arrival counts.
OLDEST_BELIEVED = dt.timedelta(days=7)
_OLDEST = OLDEST_BELIEVED.total_seconds() * 1000
TOGETHER = dt.timedelta(seconds=60)


# PostgreSQL stores no text with this character. JSON has it as an escape only, so that one look
# at the bytes tells; a pattern for each text would cost as much as all other reading.
_NUL = b"\\u0000"


class Part(msgspec.Struct, frozen=True, gc=False):
    """An object inside a message.

    None refers to itself in a circle, so the garbage collector need not look at them: it would
    take a quarter of the bridge's time.
    """


class Data(Part, frozen=True):
    """``data`` of a message; ``documented`` names keys that we know and leave."""

    documented: ClassVar[frozenset[str]] = frozenset()


class Nothing(Part, frozen=True):
    """``data`` of a method whose arguments do not matter to us."""


class Envelope(Part, frozen=True):
    """What travels around every ``data`` (Cloud API: envelope)."""

    tid: Text = ""
    bid: Text = ""
    timestamp: BigInt | None = None
    method: Text | None = None
    gateway: Text | None = None
    need_reply: bool | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class Message(Part, Generic[T], frozen=True):
    """One message of one device.

    ``sn`` is the sender that the topic names; a ``gateway`` inside the payload is not believed.
    ``at`` is the device's clock where it can be believed, else the time of arrival; both are UTC.
    ``is_again``: the broker sent it before, to us or to a bridge that is gone (MQTT's DUP).
    """

    kind: Kind
    sn: str
    method: str
    tid: str
    bid: str
    at: dt.datetime
    received_at: dt.datetime
    need_reply: bool
    data: T
    payload: bytes
    dropped: tuple[str, ...] = ()
    timestamp: int = 0
    is_again: bool = False

    @property
    def unknown(self) -> tuple[str, ...]:
        """The keys of ``data`` that no document names; costs as much as reading the message."""
        return _unknown(bytes(open_envelope(self.payload).data), type(self.data))

    @property
    def digest(self) -> str:
        """32 hex digits, equal exactly for repeated deliveries of one message, greater for later ones.

        48 bits of the ``timestamp`` that the message names, believed or not, then a hash of it all:
        an index over random values would be written to all over.
        """
        content = f"{self.kind} {self.sn} ".encode() + self.payload
        clock = min(max(self.timestamp, 0), 2**48 - 1)
        return f"{clock:012x}{hashlib.blake2b(content, digest_size=10).hexdigest()}"

    def reply(self, data: Any) -> "Reply":
        """The answer on this message's reply topic, echoing ``tid`` and ``bid``."""
        return Reply(Topic(self.kind, self.sn), self.tid, self.bid, self.method, data)


class Reply(Part, frozen=True):
    """An answer of ours: to whom, to what, and its ``data``."""

    to: Topic
    tid: str
    bid: str
    method: str
    data: Any


def is_overtaken(
    message: Message[Any], last_at: dt.datetime | None, last_seen_at: dt.datetime | None
) -> bool:
    """Whether a message is older than what the device said before.

    Its own clock orders what arrives together. Where the earlier message came a while ago the
    clock has stepped back instead, as when a restarted device has not found its time server yet;
    where it came in the future, ours has. What the broker sends again is as old as it says, and so
    is what arrived before the other was heard: it hung in a bridge since.
    """
    if last_at is None or message.at >= last_at:
        return False
    if message.is_again or last_seen_at is None:
        return True
    now = dt.datetime.now(dt.UTC)  # noqa: TID251  # plain Python
    has_hung = message.received_at < last_seen_at <= now
    return has_hung or abs(message.received_at - last_seen_at) < TOGETHER


def result(code: int, **output: Any) -> dict[str, Any]:
    """``data`` of most replies: a code (0 is success) and, where given, an output."""
    return {"result": code} | ({"output": output} if output else {})


def open_envelope(payload: bytes) -> Envelope:
    """Reads the envelope.

    Raises:
        BadMessage: not UTF-8, not JSON, not an object, nested too deeply.
    """
    return decode(payload, Envelope)[0]


def read(
    envelope: Envelope,
    topic: Topic,
    kind: type[T],
    payload: bytes,
    received_at: dt.datetime,
    is_again: bool = False,
) -> Message[T]:
    """The typed message; ``payload`` is all of it, as it came.

    Raises:
        BadMessage: ``data`` is not an object where one is needed.
    """
    raw = bytes(envelope.data)
    data, dropped = decode(b"{}" if raw in {b"null", b'""', b""} else raw, kind)
    return Message(
        topic.kind,
        topic.sn,
        envelope.method or "",
        envelope.tid,
        envelope.bid,
        _believed(envelope.timestamp, received_at),
        received_at,
        bool(envelope.need_reply),
        data,
        payload,
        tuple(dropped),
        envelope.timestamp or 0,
        is_again,
    )


def encode(tid: str, bid: str, method: str, data: Any, now: dt.datetime) -> bytes:
    """One message of ours as it goes on the wire; ``timestamp`` in ms since the epoch."""
    timestamp = int(now.timestamp() * 1000)
    return msgspec.json.encode(
        {"tid": tid, "bid": bid, "timestamp": timestamp, "method": method, "data": data}
    )


def decode(payload: bytes, kind: type[T]) -> tuple[T, list[str]]:
    """The object and the names of the keys that were dropped because their values made no sense.

    Numbers as text and 0/1 for booleans are understood; a boolean for a number is not.

    Raises:
        BadMessage: not UTF-8, not JSON, not an object, nested too deeply, a required key is wrong.
    """
    try:
        if _NUL in payload:
            _refuse_nul(kind)
        return cast("T", _decoder(kind).decode(payload)), []  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        if not _is_struct(kind):
            raise BadMessage(str(error)) from error
        return _decode_by_key(payload, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"not JSON: {error}") from error
    except RecursionError as error:
        raise BadMessage("nested too deeply") from error


def _refuse_nul(kind: type) -> None:
    if kind is not msgspec.Raw:
        raise msgspec.ValidationError("a text with a NUL character")


def _decode_by_key(payload: bytes, kind: type[T]) -> tuple[T, list[str]]:
    try:
        parts = _decoder(dict[str, msgspec.Raw]).decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a JSON object: {error}") from error
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if (raw := parts.get(field.encode_name)) is not None:
            try:
                kept[field.name], lost = decode(bytes(raw), _bare(field.type))
                dropped += [f"{field.encode_name}.{name}" for name in lost]
            except BadMessage:
                dropped.append(field.encode_name)
    try:
        return kind(**kept), dropped
    except TypeError as error:
        raise BadMessage(f"a required key is missing or wrong: {', '.join(dropped)}") from error


def _bare(kind: Any) -> Any:
    """The struct in ``Struct | None``, so that it too is read key by key; else the type itself."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        structs = [part for part in typing.get_args(kind) if _is_struct(part)]
        return structs[0] if structs else kind
    return kind


def _unknown(raw: bytes, kind: type) -> tuple[str, ...]:
    """The keys that no document names, where ``data`` says which do; a payload's index is none.

    Reading a message passes by keys that it does not know, whatever bytes they have; here they are
    read, and if they are no text nothing is told.
    """
    if not issubclass(kind, Data) or not raw.startswith(b"{"):
        return ()
    try:
        keys = _decoder(dict[str, msgspec.Raw]).decode(raw).keys() - _known(kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(key for key in keys if not key[:1].isdigit())


@functools.cache
def _known(kind: type[Data]) -> frozenset[str]:
    return kind.documented | {field.encode_name for field in msgspec.structs.fields(kind)}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@functools.cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


def _believed(timestamp: int | None, received_at: dt.datetime) -> dt.datetime:
    """The device's time, unless it lies in the future or too far back to be a late delivery."""
    if timestamp is None:
        return received_at
    if not 0 <= _milliseconds(received_at) - timestamp <= _OLDEST:
        return received_at
    return dt.datetime.fromtimestamp(timestamp / 1000, dt.UTC)


@functools.lru_cache(16)  # what arrived together has one time
def _milliseconds(at: dt.datetime) -> float:
    return at.timestamp() * 1000
