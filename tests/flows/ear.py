"""What goes over the broker during a story, heard beside the docks."""

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

WAIT = 20.0  # s


class Heard(NamedTuple):
    """A message; ``at`` on the clock that only counts up."""

    at: float
    sn: str
    kind: str
    payload: dict[str, Any]

    @property
    def tid(self) -> str:
        return str(self.payload["tid"])

    @property
    def bid(self) -> str:
        return str(self.payload["bid"])


class Ear:
    """Keeps the messages of the topics that it was asked to listen to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._lock, self._heard = threading.Lock(), list[Heard]()
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2, f"ear-{uuid.uuid4().hex[:8]}")
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda _, __, mid, ___, ____: self._subscribed.put(mid)
        self._client.connect(str(parts.hostname), parts.port or 1883)
        self._client.loop_start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, *topics: str) -> None:
        """Begins to listen; returns once the broker has taken it."""
        self._client.subscribe([(topic, 1) for topic in topics])
        self._subscribed.get(timeout=WAIT)

    def all(self, kind: str, wanted: Callable[[Heard], bool] = lambda _: True) -> list[Heard]:
        with self._lock:
            heard = list(self._heard)
        return [each for each in heard if each.kind == kind and wanted(each)]

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        sn, kind = message.topic.split("/", 3)[2:]
        heard = Heard(time.monotonic(), sn, kind, json.loads(message.payload))
        with self._lock:
            self._heard.append(heard)
