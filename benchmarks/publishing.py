"""Peers of the command benchmark: what people write who publish to ten thousand docks.

``bare`` is the least that paho can do: one connection, everything at once, no rows. The Celery
tasks take a row, publish its command, wait for the broker and save the row, one device each.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from urllib.parse import urlsplit

from celery import shared_task
from django.utils import timezone
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks import ground  # noqa: F401 (sets Django up)
from config.celery import app
from ota import delivery, messages
from ota.models import UpgradeTask
from ota.states import TaskStatus

Messages = Sequence[tuple[str, bytes]]

__all__ = ["app"]


def bare(url: str, outgoing: Messages) -> float:
    """Seconds from the first message to the last acknowledgement, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_bare, url, outgoing).result()


def _bare(url: str, outgoing: Messages) -> float:
    client = _connected(url)
    began = time.perf_counter()
    for info in [client.publish(topic, payload, 1) for topic, payload in outgoing]:
        info.wait_for_publish(60)
    seconds = time.perf_counter() - began
    client.disconnect()
    client.loop_stop()
    return seconds


def _connected(url: str) -> Client:
    parts, is_connected = urlsplit(url), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, f"peer-{uuid.uuid4().hex[:8]}")
    client.max_inflight_messages_set(1000)
    client.on_connect = lambda *_: is_connected.set()
    client.connect(str(parts.hostname), parts.port or 1883)
    client.loop_start()
    is_connected.wait(20)
    return client


_shared: dict[int, Client] = {}


@shared_task
def over_one_connection(pk: int) -> None:
    """The peer's task, with a connection for each worker process."""
    client = _shared.get(os.getpid()) or _connected(os.environ["MQTT_URL"])
    _shared[os.getpid()] = client
    _send(client, pk)


@shared_task
def over_its_own_connection(pk: int) -> None:
    """The peer's task, as most write it: a connection for each command."""
    client = _connected(os.environ["MQTT_URL"])
    _send(client, pk)
    client.disconnect()
    client.loop_stop()


def _send(client: Client, pk: int) -> None:
    task = UpgradeTask.objects.select_related("gateway").get(pk=pk)
    targets = task.targets.select_related("device", "package")
    data = messages.command([(t, delivery.link(pk, t.package)) for t in targets])
    message = {"tid": task.tid, "bid": task.bid, "method": messages.METHOD, "data": data}
    topic = f"thing/product/{task.gateway.sn}/services"
    client.publish(topic, json.dumps(message), 1).wait_for_publish(20)
    task.status, task.sent_at, task.attempt = TaskStatus.SENT, timezone.now(), task.attempt + 1
    task.save(update_fields=["status", "sent_at", "attempt"])
    task.events.create(at=task.sent_at, kind="command", tid=task.tid, bid=task.bid)
