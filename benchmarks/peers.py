"""What people write instead of the bridge, each in a process of its own: ``python -m benchmarks.peers NAME …``.

``bare`` throws messages away; ``orm`` reads and saves one row a message; ``group`` also tells the
browsers of each message; ``mqttasgi`` is the package of that name, whose consumer does the same.
Prints how many messages it took in how many seconds.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

Take = Callable[[Any], None]  # a message with topic and payload


class Watch:
    """Tells how long so many messages took, and the processor's part of it, s."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        self._began = self._ended = (0.0, 0.0)

    def begin(self) -> None:
        """Before each message; the first one counts."""
        if not self.taken:
            self._began = time.monotonic(), time.process_time()

    def end(self) -> bool:
        """After each; whether it was the last."""
        self.taken += 1
        self._ended = time.monotonic(), time.process_time()
        return self.taken == self.count

    def told(self) -> dict[str, float]:
        seconds, cpu = (end - start for start, end in zip(self._began, self._ended, strict=True))
        return {"messages": self.count, "seconds": seconds, "cpu": cpu}


def drain(url: str, client_id: str, watch: Watch, take: Take) -> None:
    """Takes the messages out of the session."""
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)

    def on_message(_: Client, __: Any, message: MQTTMessage) -> None:
        watch.begin()
        take(message)
        if watch.end():
            client.disconnect()

    client.on_message = on_message
    parts = urlsplit(url)
    client.connect(str(parts.hostname), parts.port or 1883)
    client.loop_forever()


def bare() -> Take:
    return lambda _: None


def orm() -> Take:
    """As most write it: one query for the row, one for the change."""
    _set_django_up()
    from django.utils import timezone

    from ota.models import UpgradeTask

    def take(message: MQTTMessage) -> None:
        payload = json.loads(message.payload)
        sn = message.topic.split("/")[2]
        task = UpgradeTask.objects.select_related("gateway").filter(bid=payload["bid"]).first()
        if task and task.gateway.sn == sn:
            output = payload["data"]["output"]
            task.percent = output["progress"]["percent"]
            task.step = output["progress"]["step_key"]
            task.status = output["status"]
            task.progress_at = timezone.now()
            task.save()

    return take


def group() -> Take:
    save = orm()
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    layer: Any = get_channel_layer()

    def take(message: MQTTMessage) -> None:
        save(message)
        async_to_sync(layer.group_send)("rollout", {"type": "progress", "topic": message.topic})

    return take


def mqttasgi(url: str, client_id: str, watch: Watch) -> None:
    save = orm()
    from channels.db import database_sync_to_async
    from mqttasgi.consumers import MqttConsumer  # type: ignore[import-untyped]
    from mqttasgi.server import Server  # type: ignore[import-untyped]

    from mqtt_bridge import topics

    class Consumer(MqttConsumer):  # type: ignore[misc]  # untyped
        async def connect(self) -> None:
            for name, qos in topics.subscriptions():
                await self.subscribe(name, qos)

        async def receive(self, mqtt_message: dict[str, Any]) -> None:
            watch.begin()
            await database_sync_to_async(save)(SimpleNamespace(**mqtt_message))
            told = {"type": "progress", "topic": mqtt_message["topic"]}
            await self.channel_layer.group_send("rollout", told)
            if watch.end():
                self.end = asyncio.create_task(server.shutdown("the end"))

    parts = urlsplit(url)
    server = Server(
        Consumer.as_asgi(), parts.hostname, parts.port, client_id=client_id, clean_session=False
    )
    server.run()


def _set_django_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()


NAMES = {"bare": bare, "orm": orm, "group": group}


def main() -> None:
    name, url, client_id, count = sys.argv[1:]
    watch = Watch(int(count))
    if name == "mqttasgi":
        mqttasgi(url, client_id, watch)
    else:
        drain(url, client_id, watch, NAMES[name]())
    sys.stdout.write(json.dumps(watch.told()))


if __name__ == "__main__":
    main()
