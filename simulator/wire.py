"""The bytes of the protocol: topics, envelopes, ids. DJI Cloud API: topic and envelope definition."""

import time
import uuid
from collections.abc import Mapping
from typing import Literal

import msgspec

Json = Mapping[str, object]
Kind = Literal[
    "requests", "status", "events", "services_reply", "osd", "state", "property/set_reply"
]

# What the cloud sends to a dock; `status_reply` alone lives under `sys/`.
HEARD = ("services", "requests_reply", "events_reply", "property/set")


class Incoming(msgspec.Struct, frozen=True):
    """A message from the cloud. Every key is optional: unknown is normal, and what is missing is empty or null."""

    tid: str = ""
    bid: str = ""
    method: str | None = None
    data: object = None


_decoder = msgspec.json.Decoder(Incoming)
_encoder = msgspec.json.Encoder()


def new_id() -> str:
    """Return a fresh `tid` or `bid` (UUID text)."""
    return str(uuid.uuid4())


def now() -> int:
    """Return milliseconds since the epoch, the unit of `timestamp`."""
    return time.time_ns() // 1_000_000


def topic(sn: str, kind: Kind) -> str:
    """Return the topic on which the device `sn` sends messages of `kind`."""
    prefix = "sys" if kind == "status" else "thing"
    return f"{prefix}/product/{sn}/{kind}"


def heard_topics(sn: str) -> list[str]:
    """Return the topics to which the dock `sn` subscribes."""
    return [*(f"thing/product/{sn}/{kind}" for kind in HEARD), f"sys/product/{sn}/status_reply"]


def kind_of(heard: str) -> str:
    """Return the part of a topic behind the SN: `services`, `requests_reply`, `property/set` …"""
    return heard.split("/", 3)[3]


def decode(payload: bytes) -> Incoming:
    """Parse a message. Raises msgspec.DecodeError when it is no JSON object with text ids."""
    return _decoder.decode(payload)


def encode(message: object) -> bytes:
    """Return `message` as UTF-8 JSON."""
    return _encoder.encode(message)


def call(method: str | None, gateway: str, data: Json | None, *, tid: str, bid: str) -> bytes:
    """Return a request or a topology update: `{tid, bid, timestamp, gateway, method, data}`."""
    return encode(
        {
            "tid": tid,
            "bid": bid,
            "timestamp": now(),
            "gateway": gateway,
            "method": method,
            "data": data,
        }
    )


def reply(incoming: Incoming, gateway: str, data: Json) -> bytes:
    """Return the answer to a command: `tid`, `bid` and `method` echoed, a new `timestamp`."""
    return call(incoming.method, gateway, data, tid=incoming.tid, bid=incoming.bid)


class Push:
    """A property push (`osd`, `state`) whose constant parts are encoded once.

    A thousand docks push two thousand times a second; only ids and the timestamp differ each time.
    """

    def __init__(self, sn: str, kind: Literal["osd", "state"], gateway: str, data: Json) -> None:
        self.topic = topic(sn, kind)
        self._tail = b',"gateway":' + encode(gateway) + b',"data":' + encode(data) + b"}"

    def payload(self) -> bytes:
        """Return the push with new ids and the present time."""
        head = f'{{"tid":"{uuid.uuid4()}","bid":"{uuid.uuid4()}","timestamp":{now()}'
        return head.encode() + self._tail
