"""A dock's end of the wire, as far as tests of the bridge need it."""

import json
import queue
import uuid
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

WAIT = 120.0  # s


class Wire:
    """Publishes as devices do and hears what is sent to them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._client = Client(CallbackAPIVersion.VERSION2, f"test-{uuid.uuid4().hex[:8]}")
        self._client.on_message = self._on_message
        self._heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._client.on_subscribe = lambda _, __, mid, ___, ____: self._subscribed.put(mid)
        self._client.connect(str(parts.hostname), parts.port or 1883)
        self._client.loop_start()

    def __enter__(self) -> Self:
        for topic in ("sys/product/+/+", "thing/product/+/+"):
            self._client.subscribe(topic, 1)
            self._subscribed.get(timeout=WAIT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: Any) -> None:
        """Publishes with QoS 1 and waits until the broker has it; bytes go as they are."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._client.publish(topic, raw, qos=1).wait_for_publish(WAIT)

    def hear(self, topic: str, tid: str) -> dict[str, Any]:
        """The message on a topic with this ``tid``; others are passed by.

        Raises:
            queue.Empty: it did not come.
        """
        while True:
            found, message = self._heard.get(timeout=WAIT)
            if found == topic and message["tid"] == tid:
                return message

    def ask(self, topic: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Says something and waits for its answer."""
        self.say(topic, payload)
        return self.hear(f"{topic}_reply", payload["tid"])

    def answers(self, until: str) -> list[str]:
        """The topics on which answers come, up to the one with this ``tid``."""
        topics = []
        while True:
            topic, message = self._heard.get(timeout=WAIT)
            if topic.endswith("_reply"):
                topics.append(topic)
                if message["tid"] == until:
                    return topics

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        try:
            self._heard.put((message.topic, json.loads(message.payload)))
        except (ValueError, RecursionError):
            return  # bad input that a test published itself
