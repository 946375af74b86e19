"""Whether waiting tasks may be sent, what each waits for, and which end without being sent."""

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import QuerySet

from database import bulk, reading
from fleet import versions
from fleet.models import Device
from mqtt_bridge.pipeline import is_outage
from ota import live, needs
from ota.models import FirmwarePackage, Rollout, UpgradeTarget, UpgradeTask
from ota.needs import Reason, Situation
from ota.states import PackageState, TaskStatus
from ota.upgrades import hours, proof, retries

logger = logging.getLogger(__name__)

# A change is written with the time at which its transaction began; it can be seen only later.
OVERLAP = dt.timedelta(seconds=10)
LOOK_AGAIN = dt.timedelta(seconds=5)
LOOK_ANYWAY = dt.timedelta(minutes=10)


class Case(NamedTuple):
    """A task and targets of it: all while it is judged, and once it is ready those to be sent."""

    task: UpgradeTask
    targets: list[UpgradeTarget]

    @property
    def devices(self) -> list[Device]:
        """Those on which it is judged: the dock, and what is upgraded."""
        return [self.task.gateway, *(target.device for target in self.targets)]


def judge(waiting: QuerySet[UpgradeTask], now: dt.datetime, *, note: bool) -> list[Case]:
    """Writes down what each task waits for; returns those that wait for nothing, oldest first.

    A task whose devices have the version already ends as proven; one that must not go any more
    ends as canceled, with the reason. Without ``note`` nothing is written about a task that was
    found ready before and is so still: it is about to be sent. Whatever fails, fails for the task
    alone with which it does: that one waits, and the others are judged in halves.
    """
    try:
        return _judge(waiting, now, note=note)
    except Exception as error:
        if is_outage(error):
            raise
        pks = sorted(waiting.values_list("pk", flat=True))
        if len(pks) < 2:
            _hold_back(waiting, error, now)
            return []
    middle = len(pks) // 2
    halves = [waiting.filter(pk__among=half) for half in (pks[:middle], pks[middle:])]
    return [case for half in halves for case in judge(half, now, note=note)]


def _hold_back(waiting: QuerySet[UpgradeTask], error: Exception, now: dt.datetime) -> None:
    """Lets a task wait that cannot be judged, and says so."""
    for task in waiting.select_related("gateway"):
        logger.error("task %s of %s cannot be judged", task.pk, task.gateway.sn, exc_info=error)
        text = f"it cannot be judged ({type(error).__name__}); the worker's log says more"
        reason = Reason("not_judged", text)
        write([task], {task.pk: [reason]}, now)


def _judge(waiting: QuerySet[UpgradeTask], now: dt.datetime, *, note: bool) -> list[Case]:
    cases = _read(waiting)
    if not cases:
        return []
    situation = Situation(now, {task.gateway_id for task, _ in cases})
    was_proven = {target.pk: target.is_confirmed for case in cases for target in case.targets}
    ends: defaultdict[tuple[TaskStatus, str], list[int]] = defaultdict(list)
    found: dict[int, list[Reason]] = {}
    ready = []
    for task, targets in cases:
        if end := _end(task, targets, situation):
            ends[end].append(task.pk)
            continue
        to_send = [target for target in targets if not target.is_confirmed]
        found[task.pk] = _waits_for(task, to_send, situation)
        if not found[task.pk]:
            ready.append(Case(task, to_send))
    _write_proofs(cases, was_proven)
    for (status, text), pks in ends.items():
        if status == TaskStatus.CANCELED:
            UpgradeTask.objects.call_off(pks, now, text)
        else:
            UpgradeTask.objects.move(pks, status, now, text, only_from=[TaskStatus.PENDING])
    news = [task for task, _ in cases if note or found.get(task.pk) or not task.is_ready]
    write(news, found, now)
    live.announce((task.rollout_id, task.pk) for task, _ in cases if task.pk not in found)
    return ready


def _read(waiting: QuerySet[UpgradeTask]) -> list[Case]:
    """The tasks, oldest first, with all that decides on them.

    What several share is read once, and each device once: a fourth of the objects that joins make.
    """
    tasks = {task.pk: task for task in waiting.order_by("pk")}
    targets = list(UpgradeTarget.objects.filter(task__among=tasks))
    rollouts = Rollout.objects.in_bulk({task.rollout_id for task in tasks.values()})
    library = FirmwarePackage.objects.prefetch_related("models")
    packages = library.in_bulk({target.package_id for target in targets})
    concerned = {t.gateway_id for t in tasks.values()} | {t.device_id for t in targets}
    found = Device.together(Device.objects.filter(pk__among=concerned))
    devices = {device.pk: device for device in found}
    of_task: defaultdict[int, list[UpgradeTarget]] = defaultdict(list)
    reading.attach(targets, package=packages, device=devices)
    reading.attach(tasks.values(), rollout=rollouts, gateway=devices)
    for target in targets:
        of_task[target.task_id].append(target)
    return [Case(task, of_task[task.pk]) for task in tasks.values()]


_COLUMNS = ("checked_at", "due_at", "waits_for", "is_ready", "is_absent", "ready_at")


def write(
    tasks: Iterable[UpgradeTask], found: Mapping[int, list[Reason]], now: dt.datetime
) -> None:
    """Notes what each of the tasks waits for; one that is not in ``found`` is left as it is."""
    changed = []
    rows: dict[int, dict[str, Any]] = {}
    for task in tasks:
        if task.pk not in found:
            continue
        reasons = [reason.as_json() for reason in found[task.pk]]
        rows[task.pk] = {"checked_at": now - OVERLAP, "due_at": _due_at(task, found[task.pk], now)}
        is_offline = any(reason.code == "offline" for reason in found[task.pk])
        is_absent = is_offline and not _may_have_vanished(task)
        rows[task.pk] |= {"waits_for": reasons, "is_ready": not reasons, "is_absent": is_absent}
        if not reasons and not task.is_ready:
            task.ready_at = rows[task.pk]["ready_at"] = now
        if task.waits_for != reasons or task.is_ready == bool(reasons):
            changed.append(task)
    guard = f"t.status = '{TaskStatus.PENDING}'"
    bulk.update(UpgradeTask, _COLUMNS, rows, guard)
    live.announce((task.rollout_id, task.pk) for task in changed)


def _may_have_vanished(task: UpgradeTask) -> bool:
    """Whether a command did something, this task's or that of the one it retries by hand.

    A dock that is away then is not just away. It is if all it said was that it had to wait.
    """
    is_sent = task.attempt > 0 and not retries.is_waiting(task)
    return is_sent or (task.attempt == 0 and task.retry_of_id is not None)


def _lost(task: UpgradeTask, situation: Situation) -> str:
    """Why such a dock is waited for no longer; empty while it may come back."""
    heard = situation.heard
    if heard is None or not _may_have_vanished(task):
        return ""
    signs = (task.gateway.last_seen_at, task.sent_at, task.status_at, heard.since)
    silence = heard.until - max(filter(None, signs))
    if silence <= dt.timedelta(seconds=settings.HARD_LIMIT):
        return ""
    return f"the dock has not been heard for {settings.HARD_LIMIT / 60:g} min; somebody has to look"


def _due_at(task: UpgradeTask, reasons: Sequence[Reason], now: dt.datetime) -> dt.datetime:
    """When to look again although nothing was reported: for what only time clears."""
    codes = {reason.code for reason in reasons}
    openings = (
        hours.opening(task, now) if "hours" in codes else None,
        task.not_before if "not_yet" in codes else None,
        task.rollout.starts_at if "not_started" in codes else None,
    )
    if known := [opening for opening in openings if opening]:
        # Nothing is told of a dock that is gone, and it is not waited for so long.
        return min(max(known), now + LOOK_ANYWAY) if _may_have_vanished(task) else max(known)
    if "settling" in codes:
        return task.gateway.settled_at(settings.SETTLE_TIME) or now
    if "offline" in codes and task.gateway.is_online:
        return (
            now + LOOK_AGAIN
        )  # not heard for long, and not marked: hearing it may change nothing else
    until = _may_answer_until(task) if "silent" in codes else None
    if until and until > now:
        return until
    if codes & {
        "bridge_down",
        "broker_unavailable",
        "foreign_upgrade",
        "silent",
        "no_link",
        "open_task",
        "package_unavailable",
    }:
        return now + LOOK_AGAIN
    return now + LOOK_ANYWAY


def _waits_for(
    task: UpgradeTask, targets: Sequence[UpgradeTarget], situation: Situation
) -> list[Reason]:
    aircraft = [target.device for target in targets if target.device_id != task.gateway_id]
    packages = [target.package for target in targets]
    found = needs.blockers(situation, task.gateway, next(iter(aircraft), None), packages)
    found += _too_early(task, situation.now)
    if any(situation.tasks[target.device_id] - {task.pk} for target in targets):
        found.append(Reason("open_task", "another upgrade of the same device is open"))
    unavailable = [p for p in packages if p.state != PackageState.AVAILABLE]
    if unavailable:
        found.append(
            Reason("package_unavailable", f"package {unavailable[0]} is not available now")
        )
    found += _unanswered(task, situation.now)
    found += [_unreadable(t.device) for t in targets if not t.device.firmware_number][:1]
    firsts = [needs.needs_first(situation.library, t.device, t.package) for t in targets]
    return found + list(dict.fromkeys(first for first in firsts if first))


def _unanswered(task: UpgradeTask, now: dt.datetime) -> Iterable[Reason]:
    until = _may_answer_until(task)
    if task.is_dock_silent:
        yield Reason("silent", "the dock has not been heard since the last command")
    elif until and until > now:
        yield Reason("silent", "the dock is back and may still answer the last command")


def _may_answer_until(task: UpgradeTask) -> dt.datetime | None:
    """Until when a dock that came back may answer the last command; None if that is not awaited.

    It may get it only now: the command waited for it in the broker or on the line.
    """
    back = task.gateway.online_since
    is_answered = task.replied_at is not None or retries.is_resting(task)
    if task.attempt == 0 or is_answered or not (task.sent_at and back and back > task.sent_at):
        return None
    return task.gateway.settled_at(max(settings.SETTLE_TIME, settings.REPLY_TIME))


def _unreadable(device: Device) -> Reason:
    told = device.firmware_version or "none"
    return Reason("version_unknown", f"{device.sn} reports a version that cannot be read: {told}")


def _too_early(task: UpgradeTask, now: dt.datetime) -> Iterable[Reason]:
    starts_at = task.rollout.starts_at
    if starts_at and starts_at > now:
        yield Reason("not_started", f"the rollout starts on {hours.shown(task.gateway, starts_at)}")
    if task.not_before and task.not_before > now:
        until = hours.shown(task.gateway, task.not_before)
        spread = Reason("not_yet", f"its start is spread: it waits until {until}")
        yield retries.resting(task, task.not_before) if task.retries else spread
    if closed := hours.closed(task.rollout, task.gateway, now):
        yield closed


def _end(
    task: UpgradeTask, targets: Sequence[UpgradeTarget], situation: Situation
) -> tuple[TaskStatus, str] | None:
    """How a waiting task ends without being sent, if the world has changed meanwhile."""
    if late := hours.overdue(task.rollout, situation.now):
        return TaskStatus.CANCELED, late
    if lost := _lost(task, situation):
        return TaskStatus.TIMEOUT, lost
    for target in targets:
        _note_rollback(target)
    to_send = [target for target in targets if not target.is_confirmed]
    if reasons := [text for target in to_send if (text := _obsolete(task, target, situation))]:
        return TaskStatus.CANCELED, reasons[0][:500]
    if targets and all(target.is_confirmed for target in targets):
        return TaskStatus.OK, "the devices report the wanted versions already"
    return None


def _obsolete(task: UpgradeTask, target: UpgradeTarget, situation: Situation) -> str:
    """Why a target must not be upgraded any more; empty if it may. Notes one that has it already."""
    device, dock, package = target.device, task.gateway, target.package
    owner, gateway = dock.organization_id, needs.gateway_of(device)
    if gateway is None or gateway.pk != dock.pk:
        return f"{device.sn} is not behind dock {dock.sn} any more"
    if device.organization_id is None or device.organization_id != owner:
        return f"{device.sn} and its dock are not bound to one organization any more"
    if not dock.is_bound:
        return f"{dock.sn} is in its organization only because another dock said so"
    if task.organization_id not in {None, owner}:
        return f"{dock.sn} belongs to another organization than when this was planned"
    if package.state == PackageState.WITHDRAWN:
        return f"package {package} was withdrawn"
    if device.model_id not in package.model_ids:
        return f"package {package} does not fit {device.sn}, a {device.model}"
    return _already(task, target, situation.now) or _superseded(task, target, situation)


def _already(task: UpgradeTask, target: UpgradeTarget, now: dt.datetime) -> str:
    device, wanted = target.device, versions.number(target.to_version) or 0
    has_version = device.firmware_version == target.to_version
    is_regular = target.upgrade_type == UpgradeTarget.Type.REGULAR
    if has_version and (is_regular or device.compatible_status == 0):
        _confirm_without_command(target, now)
        return ""
    if not is_regular and not has_version:
        return f"{device.sn} now reports {device.firmware_version}; a consistency upgrade is not right any more"
    if (device.firmware_number or 0) > wanted and not task.rollout.allow_downgrade:
        return f"{device.sn} now reports {device.firmware_version}; {target.to_version} would be a downgrade"
    return ""


def _superseded(task: UpgradeTask, target: UpgradeTarget, situation: Situation) -> str:
    """What the system has started by itself gives way to a regular upgrade."""
    if target.is_confirmed or not task.rollout.is_automatic:
        return ""
    device = target.device
    newest = situation.library.package(device.model_id)
    if newest and newest.version_number > (device.firmware_number or 0):
        return f"{newest} is in the library by now, and a regular upgrade goes first"
    return ""


def _note_rollback(target: UpgradeTarget) -> None:
    """A device that had the version already, and lost it while its task waited, needs it again."""
    if target.is_confirmed and not proof.has(target):
        target.confirmed_at = None


def _confirm_without_command(target: UpgradeTarget, now: dt.datetime) -> None:
    """Somebody else upgraded it meanwhile."""
    target.confirmed_at, target.reported_version = now, target.device.firmware_version


def _write_proofs(cases: Sequence[Case], was_proven: Mapping[int, bool]) -> None:
    """Writes down which targets have their version now and had it not, and which have lost it."""
    targets = [target for case in cases for target in case.targets]
    changed = [target for target in targets if target.is_confirmed != was_proven[target.pk]]
    if lost := [target.pk for target in changed if not target.is_confirmed]:
        UpgradeTarget.objects.filter(pk__among=lost).update(confirmed_at=None)
    columns = ("confirmed_at", "reported_version")
    proven = [target for target in changed if target.is_confirmed]
    rows = {target.pk: {name: getattr(target, name) for name in columns} for target in proven}
    bulk.update(UpgradeTarget, columns, rows)
