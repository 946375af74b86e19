"""The bridge's life: take what arrived, bring it in, answer, acknowledge."""

import datetime as dt
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections
from django.utils import timezone

from mqtt_bridge import envelope, pipeline, router, topics
from mqtt_bridge.client import Listener
from mqtt_bridge.envelope import Reply
from mqtt_bridge.models import BridgeSession
from mqtt_bridge.moments import Moment
from mqtt_bridge.pipeline import Read

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 4000
# That many at once come only where more wait at the broker, if that may send them (see deploy.md).
MANY = 500
# Under load batches begin this far apart: it costs their messages some milliseconds and saves
# most of the commits. The first message after a pause does not wait.
APART = 0.012  # s
# A fleet says something all the time. Without one the broker's answers to our pings come further apart
# than this, and then the limits of time lag behind by some seconds.
QUIET = 5.0  # s


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_taken() -> bool:
    """Whether a living bridge uses our client id; a database that is away knows of none."""
    close_old_connections()
    try:
        other = BridgeSession.objects.filter(client_id=settings.MQTT_CLIENT_ID).first()
    except (DatabaseError, InterfaceError):
        return False
    return other is not None and other.is_listening and not _is_gone(other.process)


def _is_gone(process: str) -> bool:
    """Whether it is this very process, or one of this host that has ended."""
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or not number.isdigit() or int(number) == os.getpid():
        return process == _this_process()
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _at(moment: Moment | None) -> dt.datetime | None:
    return moment.at() if moment else None


class Bridge:
    """One process between broker and database; ends after ``stop``."""

    def __init__(self) -> None:
        router.discover()
        filters = topics.subscriptions(settings.MQTT_SHARED_GROUP)
        self._listener = Listener(settings.MQTT_CLIENT_ID, filters, pipeline.read)
        self._ending = threading.Event()
        self._beaten = 0.0
        self._said: tuple[object, ...] = ()
        self._behind_since: Moment | None = None
        self.messages = self.batches = 0

    @property
    def is_connected(self) -> bool:
        """Connected and subscribed."""
        return self._listener.connected_since is not None

    def stop(self, *_: object) -> None:
        """Asks the bridge to end; a signal handler."""
        self._ending.set()
        self._listener.wake()

    def run(self) -> None:
        """Works until ``stop``; what was not brought in is left to the broker."""
        try:
            self._wait_for_twin()
            self._listener.start()
            while not self._ending.is_set():
                batch = self._listener.take(MOST_AT_ONCE, BridgeSession.BEAT.total_seconds())
                self._note_delay(batch)
                self._beat()
                if batch:
                    self._work(batch)
        except pipeline.Stopped:
            logger.info("ends while the database is away; the broker keeps what was not brought in")
        finally:
            self._listener.stop()
            self._say_goodbye()
            pipeline.close()

    def _wait_for_twin(self) -> None:
        """Two connections with one client id throw each other out for ever: the second one waits."""
        said = False
        while not self._ending.is_set() and _is_taken():
            if not said:
                logger.warning("waiting: another bridge runs as %s", settings.MQTT_CLIENT_ID)
                said = True
            self._ending.wait(1)

    def _note_delay(self, batch: Sequence[Read]) -> None:
        """As of when we know what docks say, where that is not now.

        Where the broker has more than it may send us at once, it stays the moment when that began;
        what waited here, as while the database was away, is known up to the oldest that waits; and
        where the broker says nothing at all the connection may be a dead one.
        """
        oldest = batch[0].received.received_at if batch else None
        if oldest and sum(1 for read in batch if read.received.qos) >= MANY:
            self._behind_since = self._behind_since or Moment(oldest)
        elif oldest and timezone.now() - oldest > BridgeSession.BEAT:
            self._behind_since = Moment(oldest)
        elif (silence := self._listener.silence()) > QUIET:
            self._behind_since = Moment(timezone.now() - dt.timedelta(seconds=silence))
        else:
            self._behind_since = None

    def _work(self, batch: Sequence[Read]) -> None:
        started = time.monotonic()
        replies = pipeline.process(batch, give_up=self._ending.wait)
        # Replies first: if the process dies in between, the broker sends the messages again
        # and they are answered twice, which harms nobody. The other way round they never are.
        for reply in replies:
            self._answer(reply)
        self._listener.acknowledge(read.received for read in batch)
        self.messages += len(batch)
        self.batches += 1
        if len(batch) > 1:
            self._ending.wait(max(0.0, APART - (time.monotonic() - started)))

    def _answer(self, reply: Reply) -> None:
        payload = envelope.encode(reply.tid, reply.bid, reply.method, reply.data, timezone.now())
        self._listener.publish(f"{topics.up(*reply.to)}_reply", payload)

    def _beat(self) -> None:
        """Says in the database that somebody listens: now and then, and when that changes."""
        is_due = time.monotonic() - self._beaten >= BridgeSession.BEAT.total_seconds()
        state = (self._listener.connected_since, self._behind_since)
        if is_due or state != self._said:
            self._beaten, self._said = time.monotonic(), state
            self._write_session()

    def _write_session(self) -> None:
        close_old_connections()
        values = {
            "seen_at": timezone.now(),
            "connected_since": _at(self._listener.connected_since),
            "behind_since": _at(self._behind_since),
            "process": _this_process(),
        }
        try:
            BridgeSession.objects.update_or_create(
                client_id=settings.MQTT_CLIENT_ID, defaults=values
            )
        except (DatabaseError, InterfaceError) as error:
            logger.warning("cannot say that the bridge is alive: %s", error)

    def _say_goodbye(self) -> None:
        self._listener.connected_since = None
        self._write_session()
