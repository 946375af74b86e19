"""Commands to docks: published with QoS 1 over one connection a process, and confirmed."""

import atexit
import os
import threading
from collections.abc import Sequence

from mqtt_bridge.client import Sender
from mqtt_bridge.errors import BrokerUnavailable

CONNECT_TIME = 5.0  # s
CONFIRM_TIME = 10.0  # s for a whole chunk

_lock = threading.Lock()
_sender: Sender | None = None
_owner = 0


def publish(messages: Sequence[tuple[str, bytes]]) -> list[bool]:
    """Publishes ``(topic, payload)`` pairs and waits until the broker has confirmed them.

    Returns, in order, whether each was confirmed; an unconfirmed one may have arrived all the
    same. The connection that left one open is thrown away, so that it is not sent later.

    Raises:
        BrokerUnavailable: there is no connection; nothing was sent.
    """
    with _lock:
        sender = _connected()
        confirmed = sender.send(messages, CONFIRM_TIME)
        if not all(confirmed):
            close()
        return confirmed


def _connected() -> Sender:
    """This process's sender; a forked process makes its own."""
    global _sender, _owner
    if _sender is None or _owner != os.getpid():
        _sender, _owner = Sender(), os.getpid()
        _sender.start()
        atexit.register(close)
    try:
        _sender.wait_connected(CONNECT_TIME)
    except BrokerUnavailable:
        close()
        raise
    return _sender


def close() -> None:
    """Ends the connection; the next ``publish`` makes a new one."""
    global _sender
    if _sender is not None and _owner == os.getpid():
        _sender.stop()
    _sender = None
