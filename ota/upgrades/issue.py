"""From waiting to sent: which tasks may go, and the command itself.

Nothing is sent on old knowledge: a task is assessed once more in the transaction that marks it
``sent``. Only after that has committed the command goes out, so no crash sends one twice.
"""

import datetime as dt
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Prefetch, Q, QuerySet

from fleet import versions
from mqtt_bridge import bulk, envelope, metrics, publisher, topics
from mqtt_bridge.errors import BrokerUnavailable
from ota import delivery, live, messages, needs
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTarget, UpgradeTask
from ota.needs import Reason, Situation
from ota.states import PackageState, TaskStatus
from ota.upgrades import files, hours

logger = logging.getLogger(__name__)

# A change is written with the time at which its transaction began; it can be seen only later.
OVERLAP = dt.timedelta(seconds=10)
LOOK_AGAIN = dt.timedelta(seconds=5)
LOOK_ANYWAY = dt.timedelta(minutes=10)
# A tick stays short also when everything wakes at once, as at the opening of the hours.
LOOK_AT_MOST = 500

_Tasks = list[UpgradeTask]


def look_again(now: dt.datetime) -> None:
    """Assesses the waiting tasks whose dock or aircraft changed since, or whose time has come.

    If there are many, the next ticks do the rest: first come those that wait longest for a look.
    """
    changed = Q(gateway__changed_at__gte=F("checked_at")) | Q(checked_at=None) | Q(due_at__lte=now)
    waiting = UpgradeTask.objects.waiting().filter(changed)
    first = waiting.order_by(F("checked_at").asc(nulls_first=True), "pk")[:LOOK_AT_MOST]
    _assess(UpgradeTask.objects.filter(pk__in=list(first.values_list("pk", flat=True))), now)


def due(now: dt.datetime) -> list[int]:
    """The tasks that may be sent now, within the limits in flight, in the order of their waves."""
    slots = Slots(Rollout.objects.filter(status=Rollout.Status.RUNNING))
    ready = UpgradeTask.objects.waiting().filter(is_ready=True).order_by("wave__number", "pk")
    places = ready.values_list("pk", "rollout_id", "gateway__site_id")
    return [pk for pk, rollout_id, site_id in places if slots.take(rollout_id, site_id)]


def issue(pks: Sequence[int], now: dt.datetime) -> int:
    """Sends the commands of those tasks that may still go; returns how many."""
    packages = FirmwarePackage.objects.available().filter(targets__task__in=pks).distinct()
    claimed = _claim(pks, files.look(packages, now), now)
    if claimed:
        _publish(claimed, now)
    return len(claimed)


def _claim(
    pks: Sequence[int], held_back: dict[int, Reason], now: dt.datetime
) -> list[tuple[UpgradeTask, bytes]]:
    """Makes the commands and marks their tasks ``sent``; ``held_back`` by package.

    It holds the lock of all rollouts that run, so that workers together keep the limits of each,
    of a site and of the system.
    """
    with transaction.atomic():
        waiting = UpgradeTask.objects.waiting().filter(pk__in=pks)
        running = Rollout.objects.filter(status=Rollout.Status.RUNNING).order_by("pk")
        slots = Slots(list(running.select_for_update(of=("self",))))
        chosen = [
            task
            for task in _sendable(_assess(waiting, now), held_back, now)
            if slots.take(task.rollout_id, task.gateway.site_id)
        ]
        commands = _commands(chosen, now)
        moved = UpgradeTask.objects.move(
            commands,
            TaskStatus.SENT,
            now,
            attempt=F("attempt") + 1,
            sent_at=now,
            replied_at=None,
            waits_for=[],
            due_at=None,
            not_before=None,
        )
        claimed = [task for task in chosen if task.pk in moved]
        bulk.insert(_command_event(task, now) for task in claimed)
        for task in claimed:
            metrics.observe("issue_seconds", (now - (task.ready_at or now)).total_seconds())
        live.announce((task.rollout_id, task.pk) for task in claimed)
        return [(task, commands[task.pk]) for task in claimed]


def _sendable(tasks: _Tasks, held_back: dict[int, Reason], now: dt.datetime) -> _Tasks:
    """Those whose packages' files are as they should be; the others wait."""
    found: dict[int, list[Reason]] = {}
    for task in tasks:
        packages = {target.package_id for target in _open_targets(task)}
        if reasons := [held_back[pk] for pk in sorted(packages & held_back.keys())]:
            found[task.pk] = reasons
    _write([task for task in tasks if task.pk in found], found, now)
    return [task for task in tasks if task.pk not in found]


def _commands(tasks: _Tasks, now: dt.datetime) -> dict[int, bytes]:
    """The commands by task, as the next attempt; a task whose command cannot be made waits."""
    found = {}
    for task in tasks:
        task.attempt += 1
        try:
            found[task.pk] = _command(task, now)
        except Exception as error:  # whatever the storage raises harms this task alone
            logger.exception("no command for task %s of %s", task.pk, task.gateway.sn)
            reason = Reason("no_link", f"its command could not be made ({type(error).__name__})")
            _write([task], {task.pk: [reason]}, now)
    return found


def _publish(claimed: Sequence[tuple[UpgradeTask, bytes]], now: dt.datetime) -> None:
    """Sends the commands and waits for the broker; what surely was not sent waits again."""
    tasks = [task for task, _ in claimed]
    commands = [(topics.services(task.gateway.sn), payload) for task, payload in claimed]
    try:
        confirmed = publisher.publish(commands)
    except BrokerUnavailable as error:
        _take_back(tasks, now, str(error))
        return
    metrics.count("commands", sum(confirmed), outcome="confirmed")
    doubtful = [task for task, sure in zip(tasks, confirmed, strict=True) if not sure]
    if doubtful:
        metrics.count("commands", len(doubtful), outcome="unconfirmed")
        note(
            doubtful,
            now,
            "the broker did not confirm the command; it may have arrived all the same",
        )


def _take_back(tasks: _Tasks, now: dt.datetime, reason: str) -> None:
    metrics.count("commands", len(tasks), outcome="unsent")
    logger.warning("%d commands were not sent: %s", len(tasks), reason)
    UpgradeTask.objects.move(
        [task.pk for task in tasks],
        TaskStatus.PENDING,
        now,
        f"not sent: {reason}",
        only_from=[TaskStatus.SENT],
        attempt=F("attempt") - 1,
        due_at=now + LOOK_AGAIN,
        is_ready=False,
        waits_for=[Reason("broker_unavailable", "the MQTT broker does not answer").as_json()],
    )
    live.announce((task.rollout_id, task.pk) for task in tasks)


def _command(task: UpgradeTask, now: dt.datetime) -> bytes:
    targets = [(target, delivery.link(task.pk, target.package)) for target in _open_targets(task)]
    if not 1 <= len(targets) <= messages.MOST_DEVICES:
        raise ValueError(
            f"a command names 1 or {messages.MOST_DEVICES} devices, not {len(targets)}"
        )
    return envelope.encode(task.tid, task.bid, messages.METHOD, messages.command(targets), now)


def _command_event(task: UpgradeTask, now: dt.datetime) -> TaskEvent:
    wanted = ", ".join(
        f"{t.device.sn} to {t.to_version} ({t.upgrade_type})" for t in _open_targets(task)
    )
    return TaskEvent(
        task=task,
        at=now,
        kind=TaskEvent.Kind.COMMAND,
        tid=task.tid,
        bid=task.bid,
        text=f"ota_create, attempt {task.attempt}: {wanted}"[:500],
    )


def note(tasks: Iterable[UpgradeTask], now: dt.datetime, text: str) -> None:
    """Adds a line to the tasks' histories."""
    bulk.insert(TaskEvent(task=task, at=now, kind=TaskEvent.Kind.NOTE, text=text) for task in tasks)


class Slots:
    """How many more tasks may be in flight, from the rows that are: by rollout, by site, in all."""

    def __init__(self, rollouts: Iterable[Rollout]) -> None:
        self._rollouts = {rollout.pk: rollout for rollout in rollouts}
        flying = UpgradeTask.objects.in_flight().values_list("rollout_id", "gateway__site_id")
        found = list(flying)
        self._by_rollout = Counter(rollout_id for rollout_id, _ in found)
        self._by_site = Counter(site_id or 0 for _, site_id in found)
        self._all = len(found)

    def take(self, rollout_id: int, site_id: int | None) -> bool:
        """Takes a slot, if there is one for a task of this rollout at this site."""
        rollout = self._rollouts.get(rollout_id)
        if rollout is None or self._by_rollout[rollout_id] >= rollout.limit_in_flight:
            return False
        most = rollout.limit_per_site
        if most is not None and site_id and self._by_site[site_id] >= most:
            return False
        if settings.SYSTEM_LIMIT_IN_FLIGHT and self._all >= settings.SYSTEM_LIMIT_IN_FLIGHT:
            return False
        self._by_rollout[rollout_id] += 1
        self._by_site[site_id or 0] += 1
        self._all += 1
        return True


def _open_targets(task: UpgradeTask) -> list[UpgradeTarget]:
    """The targets that the command has to name: not those that have it already."""
    return [target for target in task.targets.all() if not target.is_confirmed]


def _assess(waiting: QuerySet[UpgradeTask], now: dt.datetime) -> _Tasks:
    """Writes down what each task waits for; returns those that wait for nothing, oldest first.

    A task whose devices have the version already ends as proven; one that must not go any more
    ends as canceled, with the reason.
    """
    tasks = _read(waiting)
    if not tasks:
        return []
    situation = Situation(now, {task.gateway_id for task in tasks})
    was_proven = {target.pk: target.is_confirmed for task in tasks for target in task.targets.all()}
    ends: defaultdict[tuple[TaskStatus, str], list[int]] = defaultdict(list)
    found: dict[int, list[Reason]] = {}
    for task in tasks:
        end = _end(task, situation)
        if end:
            ends[end].append(task.pk)
        else:
            found[task.pk] = _waits_for(task, situation)
    _write_proofs(tasks, was_proven)
    for (status, text), pks in ends.items():
        UpgradeTask.objects.move(pks, status, now, text, only_from=[TaskStatus.PENDING])
    _write(tasks, found, now)
    live.announce((task.rollout_id, task.pk) for task in tasks if task.pk not in found)
    return [task for task in tasks if found.get(task.pk) == []]


def _read(waiting: QuerySet[UpgradeTask]) -> _Tasks:
    """The tasks, oldest first, with all that decides on them; each package is read once."""
    devices = UpgradeTarget.objects.select_related("device__model", "device__gateway__model")
    found = waiting.select_related("gateway__model", "gateway__site", "rollout")
    tasks = list(found.prefetch_related(Prefetch("targets", devices)).order_by("pk"))
    targets = [target for task in tasks for target in task.targets.all()]
    library = FirmwarePackage.objects.prefetch_related("models")
    packages = library.in_bulk({target.package_id for target in targets})
    for target in targets:
        target.package = packages[target.package_id]
    return tasks


_COLUMNS = ("checked_at", "due_at", "waits_for", "is_ready", "is_absent", "ready_at")


def _write(tasks: _Tasks, found: dict[int, list[Reason]], now: dt.datetime) -> None:
    changed = []
    rows: dict[int, dict[str, Any]] = {}
    for task in tasks:
        if task.pk not in found:
            continue
        reasons = [reason.as_json() for reason in found[task.pk]]
        rows[task.pk] = {"checked_at": now - OVERLAP, "due_at": _due_at(task, found[task.pk], now)}
        is_absent = any(reason.code == "offline" for reason in found[task.pk])
        rows[task.pk] |= {"waits_for": reasons, "is_ready": not reasons, "is_absent": is_absent}
        if not reasons and not task.is_ready:
            task.ready_at = rows[task.pk]["ready_at"] = now
        if task.waits_for != reasons or task.is_ready == bool(reasons):
            changed.append(task)
    guard = f"t.status = '{TaskStatus.PENDING}'"
    bulk.update(UpgradeTask, _COLUMNS, rows, guard)
    live.announce((task.rollout_id, task.pk) for task in changed)


def _due_at(task: UpgradeTask, reasons: Sequence[Reason], now: dt.datetime) -> dt.datetime:
    """When to look again although nothing was reported: for what only time clears."""
    codes = {reason.code for reason in reasons}
    openings = (
        hours.opening(task, now) if "hours" in codes else None,
        task.not_before if "not_yet" in codes else None,
        task.rollout.starts_at if "not_started" in codes else None,
    )
    if known := [opening for opening in openings if opening]:
        return max(known)
    if "settling" in codes:
        return task.gateway.settled_at(settings.SETTLE_TIME) or now
    if codes & {
        "bridge_down",
        "foreign_upgrade",
        "silent",
        "no_link",
        "open_task",
        "package_unavailable",
    }:
        return now + LOOK_AGAIN
    return now + LOOK_ANYWAY


def _waits_for(task: UpgradeTask, situation: Situation) -> list[Reason]:
    targets = _open_targets(task)
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
    if task.is_dock_silent:
        found.append(Reason("silent", "the dock has not been heard since the last command"))
    firsts = [needs.needs_first(situation.library, t.device, t.package) for t in targets]
    return found + list(dict.fromkeys(first for first in firsts if first))


def _too_early(task: UpgradeTask, now: dt.datetime) -> Iterable[Reason]:
    starts_at = task.rollout.starts_at
    if starts_at and starts_at > now:
        yield Reason("not_started", f"the rollout starts on {hours.shown(task, starts_at)}")
    if task.not_before and task.not_before > now:
        why = "its pause after a failure lasts" if task.retries else "its start is spread: it waits"
        yield Reason("not_yet", f"{why} until {hours.shown(task, task.not_before)}")
    if text := hours.closed(task, now):
        yield Reason("hours", text)


def _end(task: UpgradeTask, situation: Situation) -> tuple[TaskStatus, str] | None:
    """How a waiting task ends without being sent, if the world has changed meanwhile."""
    if late := hours.overdue(task.rollout, situation.now):
        return TaskStatus.CANCELED, late
    for target in task.targets.all():
        _note_rollback(target)
    reasons = [
        reason for target in _open_targets(task) if (reason := _obsolete(task, target, situation))
    ]
    if reasons:
        return TaskStatus.CANCELED, reasons[0][:500]
    if not _open_targets(task):
        return TaskStatus.OK, "the devices report the wanted versions already"
    return None


def _obsolete(task: UpgradeTask, target: UpgradeTarget, situation: Situation) -> str:
    """Why a target must not be upgraded any more; empty if it may. Notes one that has it already."""
    device = target.device
    gateway = needs.gateway_of(device)
    if gateway is None or gateway.pk != task.gateway_id:
        return f"{device.sn} is not behind dock {task.gateway.sn} any more"
    if device.organization_id is None or device.organization_id != task.gateway.organization_id:
        return f"{device.sn} and its dock are not bound to one organization any more"
    if task.organization_id not in {None, task.gateway.organization_id}:
        return f"{task.gateway.sn} belongs to another organization than when this was planned"
    if target.package.state == PackageState.WITHDRAWN:
        return f"package {target.package} was withdrawn"
    if device.model not in target.package.models.all():
        return f"package {target.package} does not fit {device.sn}, a {device.model}"
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
    newest = situation.library.package(target.device.model_id)
    has_newer = newest and newest.version_number > (target.device.firmware_number or 0)
    if has_newer and task.rollout.is_automatic and not target.is_confirmed:
        return f"{newest} is in the library by now, and a regular upgrade goes first"
    return ""


def _note_rollback(target: UpgradeTarget) -> None:
    """A device that had the version already, and lost it while its task waited, needs it again."""
    if target.is_confirmed and target.device.firmware_version != target.to_version:
        target.confirmed_at = None


def _confirm_without_command(target: UpgradeTarget, now: dt.datetime) -> None:
    """Somebody else upgraded it meanwhile."""
    target.confirmed_at, target.reported_version = now, target.device.firmware_version


def _write_proofs(tasks: _Tasks, was_proven: dict[int, bool]) -> None:
    """Writes down which targets have their version now and had it not, and which have lost it."""
    targets = [target for task in tasks for target in task.targets.all()]
    changed = [target for target in targets if target.is_confirmed != was_proven[target.pk]]
    if lost := [target.pk for target in changed if not target.is_confirmed]:
        UpgradeTarget.objects.filter(pk__in=lost).update(confirmed_at=None)
    columns = ("confirmed_at", "reported_version")
    proven = [target for target in changed if target.is_confirmed]
    rows = {target.pk: {name: getattr(target, name) for name in columns} for target in proven}
    bulk.update(UpgradeTarget, columns, rows)
