"""Whether devices have proved their upgrades by what they report."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence

from fleet.models import Device
from mqtt_bridge import bulk
from ota import live
from ota.models import UpgradeTarget, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus

UPGRADING = 3  # mode_code of a dock


def confirm(tasks: UpgradeTaskQuerySet, now: dt.datetime) -> None:
    """Looks at what the devices of tasks in flight report, and ends those that have proved it.

    The proof is the device's own report after the command: the wanted version, and for a
    consistency upgrade ``compatible_status`` 0. The final ``ok`` of a dock may never come, because
    it restarts: then the reports alone decide, once the dock does not say that it is upgrading.
    """
    targets = UpgradeTarget.objects.filter(task__in=tasks.in_flight())
    by_task: defaultdict[UpgradeTask, list[UpgradeTarget]] = defaultdict(list)
    for target in targets.select_related("task__gateway", "device").order_by("pk"):
        by_task[target.task].append(target)
    _note_reports([target for found in by_task.values() for target in found], now)
    proven = [
        task
        for task, found in by_task.items()
        if all(target.is_confirmed for target in found) and _is_over(task)
    ]
    moved = UpgradeTask.objects.move(
        [task.pk for task in proven],
        TaskStatus.OK,
        now,
        "each device reports what it should",
        percent=100,
    )
    live.announce((task.rollout_id, task.pk) for task in by_task if task.pk in moved)


def shortfall(targets: Iterable[UpgradeTarget]) -> str:
    """What is missing for the proof, in words."""
    return "; ".join(_missing(target) for target in targets if not target.is_confirmed)


def are_known(
    targets: Iterable[UpgradeTarget], since: dt.datetime | None, by_device: dt.datetime | None
) -> bool:
    """Whether all that have not proved their upgrade have said since then how they are.

    ``since`` is by our clock, and ``by_device`` by the device's: what was said before may come later.
    """
    return all(
        _is_after(_told_at(target), since)
        and (not by_device or _is_after(_said_at(target), by_device))
        for target in targets
        if not target.is_confirmed
    )


def _is_after(at: dt.datetime | None, since: dt.datetime | None) -> bool:
    return at is not None and since is not None and at >= since


def _is_over(task: UpgradeTask) -> bool:
    return task.device_ok_at is not None or task.gateway.mode_code != UPGRADING


def _note_reports(targets: Sequence[UpgradeTarget], now: dt.datetime) -> None:
    """Writes down fresh versions and proofs, and takes back what a device has lost since."""
    changes: dict[int, dict[str, object]] = {}
    if lost := [target for target in targets if target.is_confirmed and not has(target)]:
        for target in lost:
            target.confirmed_at = None
        UpgradeTarget.objects.filter(pk__among=[t.pk for t in lost]).update(confirmed_at=None)
    for target in targets:
        version = target.device.firmware_version
        is_news = target.reported_version != version
        if is_news and _is_fresh(target.task, target.device.firmware_seen_at):
            target.reported_version = version
            changes.setdefault(target.pk, {})["reported_version"] = version
        if not target.is_confirmed and _is_proven(target):
            target.confirmed_at = now
            changes.setdefault(target.pk, {})["confirmed_at"] = now
    bulk.update(UpgradeTarget, ("reported_version", "confirmed_at"), changes)


def _is_proven(target: UpgradeTarget) -> bool:
    return has(target) and _is_fresh(target.task, _told_at(target))


def _told_at(target: UpgradeTarget) -> dt.datetime | None:
    """When we last heard of what decides on a device's upgrade."""
    is_consistency = target.upgrade_type == UpgradeTarget.Type.CONSISTENCY
    return target.device.compatible_seen_at if is_consistency else target.device.firmware_seen_at


def _said_at(target: UpgradeTarget) -> dt.datetime | None:
    """When the device said that, by its own clock."""
    device, is_consistency = target.device, target.upgrade_type == UpgradeTarget.Type.CONSISTENCY
    return device.compatible_reported_at if is_consistency else device.firmware_reported_at


def has(target: UpgradeTarget) -> bool:
    """Whether the device is as the upgrade should leave it, by what it reported last."""
    device, is_consistency = target.device, target.upgrade_type == UpgradeTarget.Type.CONSISTENCY
    is_consistent = device.compatible_status == 0 or not is_consistency
    return device.firmware_version == target.to_version and is_consistent


def _is_fresh(task: UpgradeTask, seen_at: dt.datetime | None) -> bool:
    return seen_at is not None and task.sent_at is not None and seen_at > task.sent_at


def _missing(target: UpgradeTarget) -> str:
    device: Device = target.device
    if not _is_fresh(target.task, device.firmware_seen_at):
        return f"{device.sn} has not reported its version since the command"
    if device.firmware_version != target.to_version:
        return f"{device.sn} reports {device.firmware_version}, not {target.to_version}"
    return f"{device.sn} still asks for a consistency upgrade"
