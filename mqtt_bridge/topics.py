"""Topics of the Cloud API: building and parsing them, and what the bridge subscribes to."""

import enum
import functools
import re
from typing import NamedTuple


class Kind(enum.StrEnum):
    """What a device says on a topic; the value is the topic's last part."""

    STATUS = "status"
    OSD = "osd"
    STATE = "state"
    REQUESTS = "requests"
    EVENTS = "events"
    SERVICES_REPLY = "services_reply"
    PROPERTY_SET_REPLY = "property/set_reply"


class Topic(NamedTuple):
    """Who speaks (serial number) and about what."""

    kind: Kind
    sn: str


_KINDS = {kind.value: kind for kind in Kind}

SN = re.compile(r"[A-Za-z0-9]{1,64}")
_LONGEST = 100
_FORM = re.compile(rf"(sys|thing)/product/({SN.pattern})/([a-z_/]+)")


def parse(topic: str) -> Topic | None:
    """The topic's parts; None where it is none of ours or the serial number is impossible."""
    return _parse(topic) if len(topic) <= _LONGEST else None


@functools.lru_cache(100_000)  # docks say the same on the same topics for ever
def _parse(topic: str) -> Topic | None:
    match = _FORM.fullmatch(topic)
    kind = _KINDS.get(match[3]) if match else None
    if match is None or kind is None:
        return None
    return Topic(kind, match[2]) if match[1] == _root(kind) else None


def up(kind: Kind, sn: str) -> str:
    """The topic on which a device says something of this kind."""
    return f"{_root(kind)}/product/{sn}/{kind}"


def services(gateway_sn: str) -> str:
    """The topic on which a dock takes commands, for itself and for its aircraft."""
    return f"thing/product/{gateway_sn}/services"


def subscriptions(shared_group: str = "") -> list[tuple[str, int]]:
    """Topic filters with their QoS.

    ``osd`` repeats every two seconds and is stale once late: QoS 0 keeps the broker from
    storing it while the bridge is away. Everything else must not be lost.
    """
    prefix = f"$share/{shared_group}/" if shared_group else ""
    return [(prefix + up(kind, "+"), 0 if kind is Kind.OSD else 1) for kind in Kind]


def _root(kind: Kind) -> str:
    return "sys" if kind is Kind.STATUS else "thing"
