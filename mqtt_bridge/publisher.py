"""Commands to docks: published with QoS 1 over one connection a process, and confirmed."""

import atexit
import os
import threading
from collections.abc import Sequence

from django.conf import settings

from mqtt_bridge.client import Outcome, Sender
from mqtt_bridge.errors import BrokerUnavailable

CONNECT_TIME = 5.0  # s
PROMPT = 10.0  # s

_lock = threading.Lock()
_sender: Sender | None = None
_owner = 0


def connect() -> None:
    """Waits for this process's connection, on which ``publish`` does not wait.

    Raises:
        BrokerUnavailable: there is none.
    """
    with _lock:
        _connected()


def publish(messages: Sequence[tuple[str, bytes]]) -> list[Outcome]:
    """Publishes ``(topic, payload)`` pairs, each at once and once, and waits until the broker has confirmed them.

    Returns, in order, what became of each. A connection that left one open is thrown away, so that
    a late word about it is taken for no other.

    Raises:
        BrokerUnavailable: nobody has called ``connect``, or it was thrown away; nothing was sent.
    """
    with _lock:
        if _sender is None or _owner != os.getpid():
            raise BrokerUnavailable("there is no connection to the broker")
        found = _sender.send(messages, promptly())
        if Outcome.DOUBTFUL in found or Outcome.UNSENT in found:
            close()
        return found


def promptly() -> float:
    """Within how many seconds a command goes out and is confirmed, or does not go out at all.

    A third of the time for a reply at most: once that is over, another worker may send it.
    """
    return min(PROMPT, settings.REPLY_TIME / 3)


def _connected() -> None:
    """Sees to this process's sender; a forked process makes its own."""
    global _sender, _owner
    if _sender is None or _owner != os.getpid():
        _sender, _owner = Sender(), os.getpid()
        _sender.start()
    try:
        _sender.wait_connected(CONNECT_TIME)
    except BrokerUnavailable:
        close()
        raise


@atexit.register
def close() -> None:
    """Ends the connection; the next ``connect`` makes a new one."""
    global _sender
    if _sender is not None and _owner == os.getpid():
        _sender.stop()
    _sender = None
