"""Upgrades of which nobody knows what became, and what docks say about them later."""

import datetime as dt
from typing import Any

from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, limits
from tests.make import envelope, make_dock, make_task, progress, received

RESTARTED = 312028


def ago(minutes: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(minutes=minutes)


def gone(minutes: float) -> Device:
    """A dock that was last heard so long ago."""
    silent = Device.Presence.OFFLINE
    told: dict[str, Any] = {
        name: ago(24 * 60) for name in ("firmware_seen_at", "compatible_seen_at")
    }
    return make_dock(last_seen_at=ago(minutes), presence=silent, mode_code=None, **told)


def vanished(**fields: Any) -> UpgradeTask:
    """The dock took the command and was never heard again; its time for a proof is over."""
    told: dict[str, Any] = {"status_at": ago(16), "sent_at": ago(45), "replied_at": ago(45)}
    return make_task(gone(40), status=TaskStatus.VERIFYING, **told, **fields)


def say(task: UpgradeTask, kind: str, message: dict[str, Any]) -> None:
    pipeline.process([received(f"thing/product/{task.gateway.sn}/{kind}", message)])
    task.refresh_from_db()


def fail(task: UpgradeTask, result: int) -> None:
    data = progress("failed", 60, "upgrade_firmware", result)
    say(task, "events", envelope(data, "ota_progress", bid=task.bid))


def accept(task: UpgradeTask, tid: str) -> None:
    """Its dock answers the command with that ``tid``."""
    say(task, "services_reply", envelope({"result": 0}, "ota_create", bid=task.bid, tid=tid))


def tell_version(task: UpgradeTask, text: str) -> None:
    say(task, "state", envelope({"firmware_version": text}))


def tell_topology(task: UpgradeTask) -> None:
    data = {"domain": "3", "type": 2, "sub_type": 0, "sub_devices": []}
    topic = f"sys/product/{task.gateway.sn}/status"
    pipeline.process([received(topic, envelope(data, "update_topo"))])


def stamp(at: dt.datetime) -> int:
    return int(at.timestamp() * 1000)


def enforce(task: UpgradeTask) -> None:
    limits.enforce(timezone.now())
    task.refresh_from_db()


def is_sent(task: UpgradeTask) -> bool:
    """Whether the command goes out, once nothing but the pause after a failure keeps it back."""
    UpgradeTask.objects.update(not_before=None)
    Device.objects.update(last_seen_at=timezone.now())
    return issue.issue([task.pk], timezone.now()) == 1
