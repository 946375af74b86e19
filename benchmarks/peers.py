"""What people write instead of the bridge, each in a process of its own: ``python -m benchmarks.peers NAME …``.

``bare`` throws messages away; ``orm`` reads and saves one row a message; ``group`` also tells the
browsers of each message. Prints how many messages it took in how many seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion


def drain(
    url: str, client_id: str, count: int, take: Callable[[MQTTMessage], None]
) -> dict[str, float]:
    """Takes so many messages out of the session; tells how long, and the processor's part of it, s."""
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
    times: list[tuple[float, float]] = []
    taken = 0

    def on_message(_: Client, __: Any, message: MQTTMessage) -> None:
        nonlocal taken
        if not taken:
            times.append((time.monotonic(), time.process_time()))
        take(message)
        taken += 1
        if taken == count:
            times.append((time.monotonic(), time.process_time()))
            client.disconnect()

    client.on_message = on_message
    parts = urlsplit(url)
    client.connect(str(parts.hostname), parts.port or 1883)
    client.loop_forever()
    (began, cpu), (ended, used) = times
    return {"messages": count, "seconds": ended - began, "cpu": used - cpu}


def bare() -> Callable[[MQTTMessage], None]:
    return lambda _: None


def orm() -> Callable[[MQTTMessage], None]:
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


def group() -> Callable[[MQTTMessage], None]:
    save = orm()
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    layer: Any = get_channel_layer()

    def take(message: MQTTMessage) -> None:
        save(message)
        async_to_sync(layer.group_send)("rollout", {"type": "progress", "topic": message.topic})

    return take


def _set_django_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()


NAMES = {"bare": bare, "orm": orm, "group": group}


def main() -> None:
    name, url, client_id, count = sys.argv[1:]
    sys.stdout.write(json.dumps(drain(url, client_id, int(count), NAMES[name]())))


if __name__ == "__main__":
    main()
