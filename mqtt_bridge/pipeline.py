"""From what arrived to what it changes: one transaction for a batch, then the acknowledgement.

A batch runs through all routes in one transaction, its topologies and states in others of their own.
If one fails it is tried message by message, so that a bad one harms only itself. A database that is
away is nobody's fault: everything waits.
"""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, connections, transaction

from mqtt_bridge import envelope, metrics, router, topics
from mqtt_bridge.envelope import Message, Reply
from mqtt_bridge.errors import BadMessage
from mqtt_bridge.line import Received
from mqtt_bridge.models import FailedMessage, masked
from mqtt_bridge.router import Route
from mqtt_bridge.topics import Kind

logger = logging.getLogger(__name__)

T = TypeVar("T")
Plan = dict[Route, list[Message[object]]]


class Read(NamedTuple):
    """A message that was read: what it says to each of its routes, or why nobody can tell."""

    received: Received
    said: Sequence[tuple[Route, Message[object]]] = ()
    error: Exception | None = None


# A large batch goes to the database over two connections: one computes while the other waits.
WORTH_TWO = 1000
_second = ThreadPoolExecutor(1, "pipeline")


class Stopped(Exception):
    """The process is to end while a batch waits for the database."""


def read(received: Received) -> Read:
    """Takes a message apart, without the database; what fails is told where the batch is processed."""
    try:
        return Read(received, _messages(received))
    except Exception as error:  # noqa: BLE001  # it is raised again, or kept with the message
        return Read(received, error=error)


def process(batch: Sequence[Read], *, give_up: Callable[[float], bool] = bool) -> list[Reply]:
    """Brings a batch into the database, whole; returns the replies that it asks for.

    ``give_up(seconds)`` waits between attempts while the database is away, and tells whether
    the process is to end.

    Raises:
        Stopped: the process is to end; nothing of the batch may be acknowledged.
    """
    started = time.monotonic()
    replies = [reply for part in _parts(batch) for reply in _process(part, give_up)]
    metrics.observe("batch_size", len(batch))
    metrics.observe("batch_seconds", time.monotonic() - started)
    return replies if settings.MQTT_ANSWER_REQUESTS else []


def close() -> None:
    """Gives the second connection to the database back; ours is the caller's."""
    _second.submit(connections.close_all).result()


# These lock a dock and its aircraft, whoever else speaks of them. In one transaction with more they
# would wait for the devices of another half or bridge that waits for those.
_TURNS = {Kind.STATUS: 0, Kind.STATE: 2}


def _parts(batch: Sequence[Read]) -> list[list[Read]]:
    """Topologies, what is neither, and states; each begins when the one before has committed."""
    parts: tuple[list[Read], ...] = ([], [], [])
    for read in batch:
        parts[_TURNS.get(read.said[0][0].kind, 1) if read.said else 1].append(read)
    return [part for part in parts if part]


def _process(batch: Sequence[Read], give_up: Callable[[float], bool]) -> list[Reply]:
    if len(batch) < WORTH_TWO or connection.vendor == "sqlite":  # where one writes at a time
        return _process_at_once(batch, give_up)
    return _process_by_two(batch, give_up)


def _process_by_two(batch: Sequence[Read], give_up: Callable[[float], bool]) -> list[Reply]:
    ours, theirs = _halves(batch)
    other = _second.submit(_process_at_once, theirs, give_up)
    try:
        replies = _process_at_once(ours, give_up)
    finally:
        wait([other])
    return replies + other.result()


def _halves(batch: Iterable[Read]) -> tuple[list[Read], list[Read]]:
    """What one device says stays together and in order."""
    halves: tuple[list[Read], list[Read]] = ([], [])
    for one in batch:
        topic = topics.parse(one.received.topic)
        halves[hash(topic.sn if topic else "") & 1].append(one)
    return halves


def _process_at_once(batch: Sequence[Read], give_up: Callable[[float], bool]) -> list[Reply]:
    try:
        return _patiently(lambda: _bring_in(batch), give_up)
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001  # one bad message must not harm the others
        logger.info("a batch of %d is tried one by one: %s", len(batch), error)
        return [reply for message in batch for reply in _alone(message, give_up)]


def _bring_in(batch: Sequence[Read]) -> list[Reply]:
    """All messages in one transaction."""
    plan, unreadable = _plan(batch)
    if not plan and not unreadable:
        return []
    with transaction.atomic():
        replies = [reply for route, messages in plan.items() for reply in route.handler(messages)]
        if unreadable:
            FailedMessage.objects.keep(unreadable)
    try:
        _count(plan, unreadable)
    except Exception:  # what has committed must not be brought in again
        logger.exception("a batch of %d was brought in and could not be counted", len(batch))
    return replies


def _alone(read: Read, give_up: Callable[[float], bool]) -> list[Reply]:
    """One message in a transaction of its own; kept as failed if it cannot be brought in."""
    received = read.received
    try:
        return _patiently(lambda: _bring_in([read]), give_up)
    except Stopped:
        raise
    except Exception as error:
        tid = _tid(received)
        logger.exception("message failed: topic %r tid %s", received.topic[:200], tid)
        metrics.count("messages", kind=_kind(received.topic), outcome="failed")
        reason = f"{type(error).__name__}: {masked(str(error))}"
        failed = FailedMessage.of(
            received.topic, received.payload, received.received_at, reason, tid
        )
        _patiently(lambda: FailedMessage.objects.keep([failed]), give_up)
        return []


def _patiently(attempt: Callable[[], T], give_up: Callable[[float], bool]) -> T:
    """Repeats what fails only because the database is away, with back-off and jitter."""
    pause, said = 0.1, False
    while True:
        try:
            return attempt()
        except (OperationalError, InterfaceError) as error:
            if not is_outage(error):
                raise
            if not said:
                logger.warning("%s: %s", _what_failed(error), error)
                said = True
            connection.close()
        if give_up(pause * random.uniform(0.5, 1.5)):  # noqa: S311
            raise Stopped
        pause = min(pause * 2, 10)


def _what_failed(error: BaseException) -> str:
    if _state(error).startswith("40"):  # a deadlock, for example
        return "another transaction was in the way, messages are brought in again"
    return "the database does not answer, messages wait"


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, full, locked or busy, as opposed to refusing these values.

    PostgreSQL reports program limits (class 54, for example a value too long for an index) as an
    operational error too, and SQLite too many variables; those are the message's own fault.
    """
    if isinstance(error, InterfaceError):
        return True
    is_limit = _state(error).startswith(("22", "54"))
    is_limit = is_limit or "too many" in str(error) or "too big" in str(error)
    return isinstance(error, OperationalError) and not is_limit


def _state(error: BaseException) -> str:
    """PostgreSQL's code (its manual, appendix A); empty where there is none."""
    return getattr(error.__cause__, "sqlstate", None) or ""


def _plan(batch: Iterable[Read]) -> tuple[Plan, list[FailedMessage]]:
    """The messages of each route, in the routes' order, and those that nobody can read."""
    found: defaultdict[Route, list[Message[object]]] = defaultdict(list)
    unreadable = []
    unchanged = 0
    for received, said, error in batch:
        if error:
            unreadable.append(_unreadable(received, error))
        elif any(route.unless and route.unless(message) for route, message in said):
            unchanged += 1
        else:
            for route, message in said:
                found[route].append(message)
    if unchanged:
        metrics.count("messages", unchanged, kind=Kind.OSD, outcome="unchanged")
    return {route: found[route] for route in router.routes() if route in found}, unreadable


def _messages(received: Received) -> list[tuple[Route, Message[object]]]:
    topic = topics.parse(received.topic)
    if topic is None:
        raise BadMessage("the topic is none of ours, or its serial number is impossible")
    outer = envelope.open_envelope(received.payload)
    found = router.find(topic.kind, outer.method or "")
    if topic.kind is Kind.REQUESTS and not settings.MQTT_ANSWER_REQUESTS:
        found = ()  # they are for the server beside us, and so are the codes in them
    if not found:
        metrics.count("messages", kind=topic.kind, outcome="ignored")
        return []
    # Routes that want to know the same of it share one message: reading is what costs.
    read: dict[type, Message[object]] = {}
    for route in found:
        if route.data not in read:
            origin = (received.payload, received.received_at, received.is_again)
            read[route.data] = envelope.read(outer, topic, route.data, *origin)
    return [(route, read[route.data]) for route in found]


def _unreadable(received: Received, error: Exception) -> FailedMessage:
    """Raises: what is not the message's fault but that of our reading."""
    if not isinstance(error, BadMessage):
        raise error
    logger.warning("unreadable message: topic %r: %s", received.topic[:200], error)
    return FailedMessage.of(received.topic, received.payload, received.received_at, str(error))


def _count(plan: Plan, unreadable: Sequence[FailedMessage]) -> None:
    for failed in unreadable:
        metrics.count("messages", kind=_kind(failed.topic), outcome="unreadable")
    for route, messages in plan.items():
        metrics.count("messages", len(messages), kind=route.kind, outcome="handled")
        if lost := sum(len(message.dropped) for message in messages):
            metrics.count("dropped_keys", lost, kind=route.kind)
        for message in messages[:_LOOKED_AT]:
            if message.unknown:
                _note_unknown(message)


_noted: set[tuple[str, str]] = set()
_NOTED_AT_MOST = 1000
_LOOKED_AT = 10  # messages of each route in a batch: what is new comes again


def _note_unknown(message: Message[object]) -> None:
    """Counts keys that no document names, and logs each once: newer firmware says more."""
    metrics.count("unknown_keys", len(message.unknown), kind=message.kind)
    for key in message.unknown:
        if (message.kind, key) not in _noted and len(_noted) < _NOTED_AT_MOST:
            _noted.add((message.kind, key))
            logger.info("unknown key %r in %s of %s", key[:64], message.kind, message.sn)


def _kind(topic: str) -> str:
    parsed = topics.parse(topic)
    return parsed.kind if parsed else "other"


def _tid(received: Received) -> str:
    try:
        return envelope.open_envelope(received.payload).tid
    except BadMessage:
        return ""
