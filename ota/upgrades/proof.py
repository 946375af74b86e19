"""Whether devices have proved their upgrades by what they report."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence

from django.db.models import Q

from database import bulk
from fleet.models import Device
from ota import live
from ota.models import UpgradeTarget, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from ota.upgrades.order import NEVER, Word, is_before

UPGRADING = 3  # mode_code of a dock
# A dock that upgrades says each few seconds how far it is.
LULL = dt.timedelta(seconds=60)


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
        if all(target.is_confirmed for target in found) and _is_over(task, found, now)
    ]
    moved = UpgradeTask.objects.move(
        [task.pk for task in proven],
        TaskStatus.OK,
        now,
        "each device reports what it should",
        percent=100,
    )
    live.announce((task.rollout_id, task.pk) for task in by_task if task.pk in moved)


def confirm_quiet(now: dt.datetime) -> None:
    """Of tasks whose devices may report nothing more: those whose time has come to be believed."""
    seemed = Q(
        targets__upgrade_type=UpgradeTarget.Type.CONSISTENCY, targets__confirmed_at__isnull=False
    )
    confirm(UpgradeTask.objects.filter(Q(status=TaskStatus.VERIFYING) | seemed), now)


def last_sign(task: UpgradeTask) -> dt.datetime | None:
    """When the dock last spoke of the upgrade, or the command went out.

    Of the last attempt: what an earlier one reported lies before its command.
    """
    return max(filter(None, (task.progress_seen_at, task.replied_at, task.sent_at)), default=None)


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
        _is_after(_told(target).heard_at, since)
        and (not by_device or _is_after(_told(target).said_at, by_device))
        for target in targets
        if not target.is_confirmed
    )


def _is_after(at: dt.datetime | None, since: dt.datetime | None) -> bool:
    return at is not None and since is not None and at >= since


def _is_over(task: UpgradeTask, targets: Sequence[UpgradeTarget], now: dt.datetime) -> bool:
    """Whether nothing more comes.

    An aircraft may say for a moment that it is consistent, as when not all its modules have started;
    that is believed once the dock has told success, is back, or is quiet about the upgrade.
    """
    if task.device_ok_at is not None:
        return True
    if task.gateway.mode_code == UPGRADING:
        return False
    is_consistency = any(target.is_consistency for target in targets)
    return not is_consistency or task.status == TaskStatus.VERIFYING or _is_quiet(task, now)


def _is_quiet(task: UpgradeTask, now: dt.datetime) -> bool:
    return now - (last_sign(task) or now) > LULL


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
        if is_news and _is_fresh(target, _version(target)):
            target.reported_version = version
            changes.setdefault(target.pk, {})["reported_version"] = version
        if not target.is_confirmed and _is_proven(target):
            target.confirmed_at = now
            changes.setdefault(target.pk, {})["confirmed_at"] = now
    bulk.update(UpgradeTarget, ("reported_version", "confirmed_at"), changes)


def _is_proven(target: UpgradeTarget) -> bool:
    return has(target) and _is_fresh(target, _told(target))


def _told(target: UpgradeTarget) -> Word:
    """When the device told what decides on its upgrade."""
    device = target.device
    if target.is_consistency:
        return Word(device.compatible_reported_at, device.compatible_seen_at)
    return _version(target)


def _version(target: UpgradeTarget) -> Word:
    """When the device told its version."""
    return Word(target.device.firmware_reported_at, target.device.firmware_seen_at)


def has(target: UpgradeTarget) -> bool:
    """Whether the device is as the upgrade should leave it, by what it reported last."""
    device = target.device
    is_consistent = device.compatible_status == 0 or not target.is_consistency
    return device.firmware_version == target.to_version and is_consistent


def _is_fresh(target: UpgradeTarget, told: Word) -> bool:
    """Whether it was told after the last command, by our clock and by the dock's, which stamps it.

    By the dock's clock that is after it took the command; where it did not say so, after the command was
    sent. A dock that has started with a slow clock since is believed, if nothing that the broker kept can
    have passed for that start.
    """
    task, device = target.task, target.device
    if not (told.heard_at and task.sent_at and told.heard_at > task.sent_at):
        return False
    began = Word(task.taken_at or task.sent_at, task.replied_at)
    start = Word(device.topology_at, device.topology_seen_at)
    if is_before(told, began, start):
        return False
    return not is_before(told, began, NEVER) or device.topology_is_live


def _missing(target: UpgradeTarget) -> str:
    device: Device = target.device
    if not _is_fresh(target, _version(target)):
        return f"{device.sn} has not reported its version since the command"
    if device.firmware_version != target.to_version:
        return f"{device.sn} reports {device.firmware_version}, not {target.to_version}"
    if not _is_fresh(target, _told(target)):
        return f"{device.sn} has not said since the command that it needs no consistency upgrade"
    return f"{device.sn} still asks for a consistency upgrade"
