"""Objects that tests need, with values that matter spelled out at the call."""

import datetime as dt
import hashlib
import itertools
import json
import uuid
from typing import Any

from django.core.files.base import ContentFile
from django.utils import timezone

from fleet import versions
from fleet.models import Device, DeviceModel, Organization
from mqtt_bridge import pipeline
from mqtt_bridge.line import Received
from mqtt_bridge.models import BridgeSession
from mqtt_bridge.pipeline import Read
from ota import states
from ota.models import FirmwarePackage, Rollout, UpgradeTarget, UpgradeTask, Wave, Webhook
from ota.models.notices import Kind
from ota.states import TaskStatus

OLD = "10.01.1607"
NEW = "10.01.3205"

_numbers = itertools.count(1)


def make_organization(**fields: Any) -> Organization:
    number = next(_numbers)
    return Organization.objects.create(
        **{"identifier": f"org-{number}", "name": f"Organization {number}"} | fields
    )


def make_model(key: str) -> DeviceModel:
    return DeviceModel.objects.get_or_create(
        key=key, defaults={"name": key, "kind": DeviceModel.kind_of(key)}
    )[0]


def make_device(model: str = "3-2-0", version: str = OLD, **fields: Any) -> Device:
    """A claimed device that is online and reported everything, a minute ago."""
    now = timezone.now()
    earlier = now - dt.timedelta(minutes=1)
    values: dict[str, Any] = {
        "sn": f"{'7CTDK' if model.startswith('3') else '1581F'}{next(_numbers):09d}",
        "model": make_model(model),
        "presence": Device.Presence.ONLINE,
        "last_seen_at": now,
        "online_since": earlier,
        "firmware_version": version,
        "firmware_number": versions.number(version) or 0,
        "firmware_reported_at": earlier,
        "firmware_seen_at": earlier,
        "compatible_status": 0,
        "compatible_reported_at": earlier,
        "compatible_seen_at": earlier,
        "mode_code": 0,
    }
    if "organization" not in fields:
        values["organization"] = make_organization()
    if (values | fields)["organization"]:
        values["bound_at"] = earlier
    return Device.objects.create(**values | fields)


def make_dock(version: str = OLD, **fields: Any) -> Device:
    """An idle Dock 2 with a charged aircraft inside."""
    facts = {
        "flighttask_step_code": 5,
        "drone_in_dock": 1,
        "emergency_stop_state": 0,
        "link_workmode": 0,
        "battery_percent": 93,
    }
    return make_device("3-2-0", version, **facts | fields)


def make_aircraft(dock: Device, version: str = OLD, **fields: Any) -> Device:
    return make_device(
        "0-91-1", version, **{"gateway": dock, "organization": dock.organization} | fields
    )


def make_package(
    version: str = NEW, models: tuple[str, ...] = ("3-2-0", "0-91-0", "0-91-1"), **fields: Any
) -> FirmwarePackage:
    """A package in the library; its file holds a few bytes, not a zip."""
    content = f"package {next(_numbers)}".encode()
    values: dict[str, Any] = {
        "file_name": f"M3D_V{version}.zip",
        "version": version,
        "size": len(content),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "state": FirmwarePackage.State.AVAILABLE,
        "verified_at": timezone.now(),
    }
    package = FirmwarePackage(**values | fields)
    package.file.save(f"firmware/{package.sha256}.zip", ContentFile(content), save=False)
    package.save()
    package.models.set([make_model(key) for key in models])
    return package


def make_rollout(**fields: Any) -> Rollout:
    """A rollout whose only wave is open."""
    rollout = Rollout.objects.create(**{"name": "Rollout", "limit_in_flight": 20} | fields)
    make_wave(rollout)
    return rollout


def make_wave(rollout: Rollout, number: int = 1, **fields: Any) -> Wave:
    values = {"gate": 100, "opened_at": timezone.now()} | fields
    return Wave.objects.create(rollout=rollout, number=number, **values)


def make_task(
    dock: Device | None = None,
    *,
    rollout: Rollout | None = None,
    status: TaskStatus = TaskStatus.PENDING,
    aircraft: Device | None = None,
    version: str = NEW,
    **fields: Any,
) -> UpgradeTask:
    """A task for a dock and, if given, its aircraft; sent a minute ago unless it is pending."""
    dock = dock or make_dock()
    now = timezone.now()
    values: dict[str, Any] = {"status_at": now}
    if status != TaskStatus.PENDING:
        values |= {"attempt": 1, "sent_at": now - dt.timedelta(seconds=60), "replied_at": now}
    if status in states.TERMINAL:
        values["finished_at"] = now
    rollout = rollout or make_rollout()
    values |= {"rollout": rollout, "wave": rollout.wave_set.first()}
    values |= {"organization": dock.organization}
    task = UpgradeTask.objects.create(gateway=dock, status=status, **values | fields)
    package = FirmwarePackage.objects.filter(version=version).first() or make_package(version)
    for device in [aircraft, dock] if aircraft else [dock]:
        make_target(task, device, package)
    return task


def make_failed(rollout: Rollout | None = None, **fields: Any) -> UpgradeTask:
    """A task that has just failed."""
    ended: dict[str, Any] = {"status": TaskStatus.FAILED, "message": "The link broke."}
    return make_task(rollout=rollout, **ended | fields)


def make_target(
    task: UpgradeTask,
    device: Device,
    package: FirmwarePackage,
    upgrade_type: str = UpgradeTarget.Type.REGULAR,
) -> UpgradeTarget:
    return UpgradeTarget.objects.create(
        task=task,
        device=device,
        package=package,
        upgrade_type=upgrade_type,
        from_version=device.firmware_version,
        to_version=package.version,
    )


def make_listening(**fields: Any) -> BridgeSession:
    """A bridge that has been listening for an hour."""
    now = timezone.now()
    values = {
        "client_id": f"bridge-{next(_numbers)}",
        "seen_at": now,
        "connected_since": now - dt.timedelta(hours=1),
    }
    return BridgeSession.objects.create(**values | fields)


def envelope(data: Any, method: str = "", **fields: Any) -> dict[str, Any]:
    """A message as a device sends it, now."""
    found: dict[str, Any] = {
        "tid": str(uuid.uuid4()),
        "bid": str(uuid.uuid4()),
        "timestamp": int(timezone.now().timestamp() * 1000),
        "data": data,
    }
    return found | ({"method": method} if method else {}) | fields


def progress(
    status: str = "in_progress",
    percent: int | None = 10,
    step: str = "download_firmware",
    result: int = 0,
) -> dict[str, Any]:
    """``data`` of ``ota_progress`` as the documentation has it."""
    return {
        "result": result,
        "output": {"status": status, "progress": {"percent": percent, "step_key": step}},
    }


def received(topic: str, payload: dict[str, Any] | bytes, **fields: Any) -> Read:
    """A message as the client hands it to the bridge."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    values: dict[str, Any] = {"received_at": timezone.now(), "qos": 1, "mid": 1, "session": 1}
    return pipeline.read(Received(topic=topic, payload=raw, **values | fields))


def make_webhook(organization: Organization, **fields: Any) -> Webhook:
    """A webhook for everything."""
    values = {"url": "https://hooks.example.org/fleet", "kinds": list(Kind.values)} | fields
    return Webhook.objects.create(organization=organization, **values)
