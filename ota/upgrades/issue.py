"""From waiting to sent: which tasks may go, and the command itself.

Nothing is sent on old knowledge: a task is judged right before, and the transaction that marks it
``sent`` looks whether anything changed since. Only after that has committed the command goes out,
so no crash sends one twice.
"""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from database import bulk
from fleet.models import Device
from mqtt_bridge import envelope, metrics, publisher, topics
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from ota import delivery, live, messages
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.needs import Reason
from ota.states import TaskStatus
from ota.upgrades import files, judging
from ota.upgrades.judging import LOOK_AGAIN, LOOK_ANYWAY, Case
from ota.upgrades.slots import Slots

logger = logging.getLogger(__name__)

# A tick stays short also when everything wakes at once, as at the opening of the hours.
LOOK_AT_MOST = 500
# What was judged longer ago is judged anew: a bucket may have taken its time meanwhile.
FRESH = dt.timedelta(seconds=20)


_DOUBT = "the broker did not confirm the command; it may have arrived all the same"
_NO_BROKER = Reason("broker_unavailable", "the MQTT broker does not answer")
_REFUSED = Reason(
    "broker_refused",
    "the MQTT broker refused the command; see whether it lets workers publish to its topic",
)
_TOO_SLOW = Reason(
    "no_link",
    "its command was not made in time: the storage of the packages or this server is slow",
)


class Command(NamedTuple):
    """A task that may be sent, the id of its message and the message for its dock."""

    case: Case
    tid: str
    payload: bytes

    @property
    def task(self) -> UpgradeTask:
        return self.case.task


class Claim(NamedTuple):
    """Commands that this worker alone may send now, and when it took them."""

    commands: list[Command]
    at: dt.datetime

    @property
    def tasks(self) -> list[UpgradeTask]:
        return [command.task for command in self.commands]


def look_again(now: dt.datetime) -> None:
    """Assesses the waiting tasks whose dock or aircraft changed since, or whose time has come.

    If there are many, the next ticks do the rest: first come those that wait longest for a look.
    """
    changed = Q(gateway__changed_at__gte=F("checked_at")) | Q(checked_at=None) | Q(due_at__lte=now)
    waiting = UpgradeTask.objects.waiting().filter(changed)
    first = waiting.order_by(F("checked_at").asc(nulls_first=True), "pk")[:LOOK_AT_MOST]
    chosen = UpgradeTask.objects.filter(pk__among=list(first.values_list("pk", flat=True)))
    judging.judge(chosen, now, note=True)


def due(now: dt.datetime) -> list[int]:
    """The tasks that may be sent now, within the limits in flight, in the order of their waves."""
    slots = Slots(Rollout.objects.filter(status=Rollout.Status.RUNNING))
    ready = UpgradeTask.objects.waiting().filter(is_ready=True).order_by("wave__number", "pk")
    places = ready.values_list("pk", "rollout_id", "gateway__site_id")
    return [pk for pk, rollout_id, site_id in places if slots.take(rollout_id, site_id)]


def issue(pks: Sequence[int], now: dt.datetime) -> int:
    """Sends the commands of those tasks that may still go; returns how many."""
    waiting = UpgradeTask.objects.waiting().filter(pk__among=pks)
    ready = judging.judge(waiting, now, note=False)
    commands = _commands(_sendable(ready, now), now)
    if not commands or not _is_connected(commands, now):
        return 0
    claim = _claim(commands, now)
    if claim.commands:
        _publish(claim)
    return len(claim.commands)


def _is_connected(commands: Sequence[Command], now: dt.datetime) -> bool:
    """Whether there is a broker; if not they wait, and nothing is said to have happened to them."""
    try:
        publisher.connect()
    except BrokerUnavailable as error:
        metrics.count("commands", len(commands), outcome="unsent")
        logger.warning("%d commands were not sent: %s", len(commands), error)
        _hold_back(commands, _NO_BROKER, now)
        return False
    return True


def _sendable(ready: Sequence[Case], now: dt.datetime) -> list[Case]:
    """Those whose packages' files are as they should be; the others wait."""
    asked = {target.package_id: target.package for _, targets in ready for target in targets}
    held_back = files.look(asked.values(), now)
    found: dict[int, list[Reason]] = {}
    for task, targets in ready:
        packages = {target.package_id for target in targets}
        if reasons := [held_back[pk] for pk in sorted(packages & held_back.keys())]:
            found[task.pk] = reasons
    judging.write([one.task for one in ready], found, now)
    return [one for one in ready if one.task.pk not in found]


def _commands(ready: Sequence[Case], now: dt.datetime) -> list[Command]:
    """The commands, as the next attempt; a task whose command cannot be made waits."""
    found = []
    for one in ready:
        one.task.attempt += 1
        try:
            found.append(_command(one, now))
        except Exception as error:  # whatever the storage raises harms this task alone
            task = one.task
            logger.exception("no command for task %s of %s", task.pk, task.gateway.sn)
            reason = Reason("no_link", f"its command could not be made ({type(error).__name__})")
            judging.write([task], {task.pk: [reason]}, now)
    return found


def _command(case: Case, now: dt.datetime) -> Command:
    task, targets = case
    if not 1 <= len(targets) <= messages.MOST_DEVICES:
        raise ValueError(
            f"a command names 1 or {messages.MOST_DEVICES} devices, not {len(targets)}"
        )
    links = [(target, delivery.link(task.pk, target.package)) for target in targets]
    tid, data = task.tid, messages.command(links)
    return Command(case, tid, envelope.encode(tid, task.bid, messages.METHOD, data, now))


def _claim(commands: Sequence[Command], judged_at: dt.datetime) -> Claim:
    """Marks tasks ``sent`` whose commands may go out; what is left over waits for the next tick.

    It holds the lock of all rollouts that run, so that workers together keep the limits of each,
    of a site and of the system. All that takes time was done before, and the time for a reply does
    not begin until now. As everywhere, the lock leaves a rollout's key free (``no_key``): who holds
    a task may still write rows that name its rollout, which would be a deadlock.
    """
    with transaction.atomic():
        running = Rollout.objects.filter(status=Rollout.Status.RUNNING).order_by("pk")
        locked = list(running.select_for_update(of=("self",), no_key=True))
        now = timezone.now()
        if now - judged_at > FRESH:
            logger.warning("%d commands wait: %s", len(commands), _TOO_SLOW.text)
            _hold_back(commands, _TOO_SLOW, now)
            return Claim([], now)
        slots = Slots(locked)
        chosen = [
            command.task.pk
            for command in _unchanged(commands, locked)
            if slots.take(command.task.rollout_id, command.task.gateway.site_id)
        ]
        moved = UpgradeTask.objects.move(
            chosen,
            TaskStatus.SENT,
            now,
            attempt=F("attempt") + 1,
            sent_at=now,
            replied_at=None,
            waits_for=[],
            due_at=None,
            not_before=None,
        )
        is_moved = set(moved).__contains__
        claimed = [command for command in commands if is_moved(command.task.pk)]
        bulk.insert_rows(TaskEvent, [_line(command, now) for command in claimed])
        live.announce((command.task.rollout_id, command.task.pk) for command in claimed)
    # Those that were found ready by one look have waited alike.
    for waited, times in Counter(now - (one.task.ready_at or now) for one in claimed).items():
        metrics.observe("issue_seconds", waited.total_seconds(), times)
    return Claim(claimed, now)


def _hold_back(commands: Sequence[Command], reason: Reason, now: dt.datetime) -> None:
    """Lets tasks wait a moment whose commands were made and cannot go out now."""
    tasks = [command.task for command in commands]
    judging.write(tasks, {task.pk: [reason] for task in tasks}, now)


def _unchanged(commands: Sequence[Command], running: Iterable[Rollout]) -> list[Command]:
    """Those about which all is still as it was when they were judged."""
    judged = {command.task.rollout_id: command.task.rollout for command in commands}
    same = {r.pk for r in running if r.pk in judged and r.is_as(judged[r.pk])}
    tasks = UpgradeTask.objects.waiting().filter(
        pk__among=[command.task.pk for command in commands]
    )
    attempts = dict(tasks.values_list("pk", "attempt"))
    devices = {device.pk: device.changed_at for one in commands for device in one.case.devices}
    current = Device.objects.filter(pk__among=devices).values_list("pk", "changed_at")
    still = {pk for pk, changed_at in current if changed_at == devices[pk]}
    packages = {target.package_id for one in commands for target in one.case.targets}
    available = FirmwarePackage.objects.available().filter(pk__in=packages)
    offered = set(available.values_list("pk", flat=True))
    return [
        command
        for command in commands
        if attempts.get(command.task.pk) == command.task.attempt - 1
        and command.task.rollout_id in same
        and all(device.pk in still for device in command.case.devices)
        and all(target.package_id in offered for target in command.case.targets)
    ]


def _publish(claim: Claim) -> None:
    """Sends the commands and waits for the broker; what surely was not sent waits again."""
    commands = _still_wanted(claim)
    outgoing = [(topics.services(one.task.gateway.sn), one.payload) for one in commands]
    try:
        outcomes = publisher.publish(outgoing)
    except BrokerUnavailable as error:
        _take_back([one.task for one in commands], claim.at, str(error), _NO_BROKER)
        return
    for outcome in set(outcomes):
        pairs = zip(commands, outcomes, strict=True)
        concerned = [command.task for command, one in pairs if one is outcome]
        if outcome is Outcome.UNSENT:
            why = "its turn did not come in time, or the connection to the MQTT broker broke off"
            _take_back(concerned, claim.at, why, _NO_BROKER)
        elif outcome is Outcome.REFUSED:
            _take_back(concerned, claim.at, _REFUSED.text, _REFUSED, outcome)
        else:
            metrics.count("commands", len(concerned), outcome=outcome.value)
        if outcome is Outcome.DOUBTFUL:
            note(concerned, timezone.now(), _DOUBT)


def _still_wanted(claim: Claim) -> list[Command]:
    """A last look, after which nothing is waited for: those that may still go; the others wait again.

    A worker that stood still since its claim knows nothing of what others have done, and its dock
    may have answered an earlier command.
    """
    own = _claimed_at(claim.at).filter(pk__among=[task.pk for task in claim.tasks])
    wanted = set(own.values_list("pk", flat=True))
    if timezone.now() - claim.at > dt.timedelta(seconds=publisher.promptly()):
        wanted = set()  # only now: the database may have taken its time for the answer
    if others := [task for task in claim.tasks if task.pk not in wanted]:
        why = "it would have been late, or its dock had answered the one before"
        _take_back(others, claim.at, why, _TOO_SLOW)
    return [command for command in claim.commands if command.task.pk in wanted]


def _claimed_at(at: dt.datetime) -> UpgradeTaskQuerySet:
    """Those that were claimed then, and of which nobody has heard or changed anything since."""
    return UpgradeTask.objects.filter(status=TaskStatus.SENT, sent_at=at, replied_at=None)


def _take_back(
    tasks: Collection[UpgradeTask],
    claimed_at: dt.datetime,
    why: str,
    waits_for: Reason,
    outcome: Outcome = Outcome.UNSENT,
) -> None:
    """Lets those wait again whose command was not sent, as if it had never been made.

    Not those whose dock has meanwhile answered an earlier command, nor those that another worker has
    sent since: what was claimed at that moment is this worker's.
    """
    now, is_refused = timezone.now(), outcome is Outcome.REFUSED
    metrics.count("commands", len(tasks), outcome=outcome.value)
    logger.warning("%d commands were not sent: %s", len(tasks), why)
    # As they were when they were judged: a new command had wiped how the last one ended.
    columns = ["result", "message", "not_before", "sent_at", "replied_at"]
    if is_refused:  # again and again: that is no news, and its rollout stands still
        columns += ["status_at"]
    with transaction.atomic():
        moved = _claimed_at(claimed_at).move(
            [task.pk for task in tasks],
            TaskStatus.PENDING,
            now,
            f"not sent: {why}",
            attempt=F("attempt") - 1,
            sent_at=None,
            checked_at=now,
            due_at=now + (LOOK_ANYWAY if is_refused else LOOK_AGAIN),
            is_ready=False,
            waits_for=[waits_for.as_json()],
        )
        by_pk = {task.pk: task for task in tasks}
        rows = {pk: {name: getattr(by_pk[pk], name) for name in columns} for pk in moved}
        bulk.update(UpgradeTask, columns, rows)
    left = [by_pk[pk] for pk in by_pk.keys() - rows.keys()]
    note(left, now, f"the command was not sent: {why}")
    live.announce((task.rollout_id, task.pk) for task in tasks)


def _line(command: Command, now: dt.datetime) -> bulk.Row:
    """What the history says of the command."""
    task, targets = command.case
    wanted = ", ".join(f"{t.device.sn} to {t.to_version} ({t.upgrade_type})" for t in targets)
    return {
        "task_id": task.pk,
        "at": now,
        "kind": TaskEvent.Kind.COMMAND,
        "tid": command.tid,
        "bid": task.bid,
        "text": f"ota_create, attempt {task.attempt}: {wanted}"[:500],
    }


def note(tasks: Iterable[UpgradeTask], now: dt.datetime, text: str) -> None:
    """Adds a line to the tasks' histories."""
    line = {"at": now, "kind": TaskEvent.Kind.NOTE, "text": text}
    bulk.insert_rows(TaskEvent, [line | {"task_id": task.pk} for task in tasks])
