"""Limits of time: no reply, silence, no proof, and the hard end. All from settings, in seconds.

While no bridge listens nothing ends, nor right after: what the broker kept comes first. A bridge
that is behind knows only what came before, so time is judged as of then.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max, Q

from fleet import telemetry
from fleet.models import Device
from mqtt_bridge.models import BridgeSession, Heard
from ota import errors, live, states
from ota.models import TaskEvent, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from ota.upgrades import no_show, others, proof, retries

IDLE = 0
MOST_ATTEMPTS = 10
# All that a dock says by itself when it is back has come by then; no restart is so short.
FIRST_WORDS = dt.timedelta(seconds=10)
_GONE = {"presence": Device.Presence.OFFLINE, **Device.UNKNOWN_FACTS}


class Verdict(NamedTuple):
    """Where a limit leads a task, and why.

    ``is_final`` where another attempt could do harm, ``is_unanswered`` where the dock could have
    answered and did not.
    """

    target: TaskStatus
    text: str
    is_final: bool = False
    is_unanswered: bool = False


def enforce(now: dt.datetime) -> None:
    """Ends or moves on the tasks in flight whose time is over."""
    heard = BridgeSession.objects.heard(now)
    if heard is None:
        return
    in_flight = UpgradeTask.objects.in_flight().select_related("gateway").with_targets()
    if gone := [task for task in in_flight if _has_gone(task, heard)]:
        _mark_gone(gone, heard, now)
    verdicts: defaultdict[Verdict, list[UpgradeTask]] = defaultdict(list)
    for task in in_flight:
        if verdict := _verdict(task, heard):
            verdicts[verdict].append(task)
    for verdict, tasks in verdicts.items():
        _carry_out(verdict, tasks, now)
    if _has_caught_up(heard, settings.STALL_TIME):
        others.forget_silent(heard.until - dt.timedelta(seconds=settings.STALL_TIME), now)
    if _has_caught_up(heard, settings.FIRMWARE_NO_SHOW):
        no_show.flag(now)


def _has_gone(task: UpgradeTask, heard: Heard) -> bool:
    """Whether a dock that has yet to answer fell silent; not one that said that it upgrades."""
    dock, is_open = task.gateway, task.status == TaskStatus.SENT and task.replied_at is None
    may_answer = is_open and dock.is_online and dock.mode_code != proof.UPGRADING
    return may_answer and _is_over(dock.last_seen_at, telemetry.noted_within(), heard)


def _mark_gone(tasks: Collection[UpgradeTask], heard: Heard, now: dt.datetime) -> None:
    """Once these docks are heard they are back: they may get their command, or send their reply, then."""
    limit = heard.until - dt.timedelta(seconds=telemetry.noted_within())
    docks = Device.objects.filter(pk__among=[task.gateway_id for task in tasks])
    silent = docks.filter(Q(last_seen_at=None) | Q(last_seen_at__lt=limit))
    with transaction.atomic():
        _lock_docks(tasks)
        silent.exclude(mode_code=proof.UPGRADING).update(changed_at=now, **_GONE)


def _carry_out(verdict: Verdict, tasks: list[UpgradeTask], now: dt.datetime) -> None:
    if verdict.target in states.UNSUCCESSFUL and not verdict.is_final:
        for task in tasks:
            _fail(verdict, task, now)
        return
    fields: dict[str, Any] = {"message": verdict.text[:500]}
    if verdict.target == TaskStatus.PENDING:
        fields |= {"is_ready": False, "checked_at": None}
        fields |= {"unanswered": F("unanswered") + int(verdict.is_unanswered)}
    if verdict.target == TaskStatus.IN_PROGRESS:
        fields |= {"replied_at": now, "message": ""}
    found = _as_judged(now)
    if all(task.replied_at is None for task in tasks):
        found = found.filter(replied_at=None)  # its reply may have come this very moment
    with transaction.atomic():
        if verdict.target == TaskStatus.PENDING:
            _lock_docks(tasks)
        moved = found.move(
            [task.pk for task in tasks],
            verdict.target,
            now,
            verdict.text[:500],
            only_from={TaskStatus(task.status) for task in tasks},
            **fields,
        )
        if verdict.target == TaskStatus.PENDING:
            _forget_facts(moved, now)
    live.announce((task.rollout_id, task.pk) for task in tasks if task.pk in moved)


def _as_judged(now: dt.datetime) -> UpgradeTaskQuerySet:
    """Without the tasks whose next command went out since: a tick may stand still for a while."""
    return UpgradeTask.objects.exclude(sent_at__gt=now)


def _lock_docks(tasks: Collection[UpgradeTask]) -> None:
    """First, as the bridge does: it writes what docks say, and then looks at their tasks."""
    docks = Device.objects.filter(pk__among=[task.gateway_id for task in tasks]).order_by("pk")
    list(docks.select_for_update(no_key=True).values_list("pk"))


def _forget_facts(tasks: Collection[int], now: dt.datetime) -> None:
    """A dock that was not heard since its command may do it now: what it said lies before that.

    Once it is heard it has come back, however short it was away, and has time to answer.
    """
    is_before = Q(last_seen_at=None) | Q(last_seen_at__lt=F("tasks__sent_at"))
    silent = Device.objects.filter(is_before, tasks__in=tasks)
    silent.update(changed_at=now, **_GONE)


def _fail(verdict: Verdict, task: UpgradeTask, now: dt.datetime) -> None:
    """Ends it, or leads to another attempt if it deserves one."""
    found = retries.outcome(task, verdict.target, None, verdict.text, now)
    _as_judged(now).move(
        [task.pk],
        found.target,
        now,
        found.text[:500],
        only_from=[TaskStatus(task.status)],
        **found.fields,
    )
    live.announce([(task.rollout_id, task.pk)])


def _verdict(task: UpgradeTask, heard: Heard) -> Verdict | None:
    if task.status == TaskStatus.VERIFYING:
        return _unproven(task, heard)
    if _is_over(task.sent_at, settings.HARD_LIMIT, heard):
        limit = _minutes(settings.HARD_LIMIT)
        text = f"not finished within {limit}; {_shortfall(task)}"
        return Verdict(TaskStatus.TIMEOUT, text, is_final=True)
    if task.status == TaskStatus.SENT and task.replied_at is None:
        return _unanswered(task, heard)
    return _silent(task, heard)


def _unanswered(task: UpgradeTask, heard: Heard) -> Verdict | None:
    """The command or its reply got lost: follow what the dock does, else send once more.

    A dock that was gone when the command went out has had no chance to answer: its task waits
    until it is heard again.
    """
    limit = settings.REPLY_TIME
    if task.is_dock_silent:  # or was heard, which is not written down at once
        limit = max(limit, telemetry.noted_within())
    # One that came back may have got it only then.
    signs = (task.sent_at, task.gateway.online_since)
    if not _is_over(max(filter(None, signs), default=None), limit, heard):
        return None
    if task.gateway.mode_code == proof.UPGRADING and not others.is_upgrading(task.gateway_id):
        return Verdict(
            TaskStatus.IN_PROGRESS, "no reply, but the dock reports that it is upgrading"
        )
    waited = _minutes(limit)
    sent = task.attempt - task.retries  # a retry after a failure has tries of its own
    if task.is_dock_silent and sent < MOST_ATTEMPTS:
        return Verdict(TaskStatus.PENDING, f"the dock was not heard for {waited} after the command")
    unanswered = task.unanswered + 1
    if unanswered < settings.SEND_ATTEMPTS:
        text = f"no reply within {waited}; the command goes out again"
        return Verdict(TaskStatus.PENDING, text, is_unanswered=True)
    # Nobody knows what the dock has done with them: another one would be sent blindly.
    commands = "the command" if unanswered == 1 else f"{unanswered} commands"
    return Verdict(TaskStatus.TIMEOUT, f"no reply to {commands}", is_final=True)


def _silent(task: UpgradeTask, heard: Heard) -> Verdict | None:
    """Silence is normal while a dock restarts; what it reports afterwards decides."""
    gateway = task.gateway
    last = proof.last_sign(task)
    is_idle = gateway.mode_code == IDLE and gateway.firmware_upgrade_status != 1
    settled = gateway.settled_at(settings.SETTLE_TIME)
    is_settled = gateway.is_online and settled and settled < heard.until
    if is_settled and is_idle and _has_returned(task):
        return Verdict(
            TaskStatus.VERIFYING, "the dock is back without a final report; its versions decide"
        )
    if task.status == TaskStatus.PAUSED or not _is_over(last, settings.STALL_TIME, heard):
        return None
    if is_idle or _is_over(gateway.last_seen_at, settings.STALL_TIME, heard):
        waited = _minutes(settings.STALL_TIME)
        return Verdict(
            TaskStatus.VERIFYING, f"no progress for {waited}; the reported versions decide"
        )
    return None


def _has_returned(task: UpgradeTask) -> bool:
    """Whether its dock came back after it last spoke of the upgrade.

    One that was away may answer before it says anything else: then it comes back after its reply, and
    is there for the command, not from its upgrade.
    """
    back, last = task.gateway.online_since, proof.last_sign(task)
    if back is None or last is None or back <= last:
        return False
    return task.replied_at is None or back > task.replied_at + FIRST_WORDS


def _unproven(task: UpgradeTask, heard: Heard) -> Verdict | None:
    since = max(task.status_at, task.progress_seen_at or task.status_at)
    # The word of a restart gives time to report, and not for ever.
    is_endless = _is_over(task.sent_at, settings.HARD_LIMIT + settings.VERIFY_TIME, heard)
    # Success may have been that of the first of two devices.
    is_working = task.gateway.mode_code == proof.UPGRADING
    if not is_endless and (is_working or not _is_over(since, settings.VERIFY_TIME, heard)):
        return None
    if task.device_ok_at:
        return Verdict(TaskStatus.FAILED, f"the dock reported success, but {_shortfall(task)}")
    restarted = task.result == errors.RESTARTED
    what = "the device restarted in the middle" if restarted else "the dock fell silent"
    # What they had before is no reason for another attempt: it may have gone well.
    is_blind = not proof.are_known(task.targets.all(), *_decided_from(task))
    dock = task.gateway
    is_gone = not dock.is_online or telemetry.is_silent(dock.last_seen_at, heard.until)
    text = f"{what}, and {_shortfall(task)}"
    return Verdict(TaskStatus.TIMEOUT, text, is_final=is_blind or is_gone)


def _decided_from(task: UpgradeTask) -> tuple[dt.datetime | None, dt.datetime | None]:
    """From when on a reported version decides, by our clock and by the dock's.

    The word of a restart may come after what the dock says when it is back.
    """
    dock = task.gateway
    if task.result == errors.RESTARTED and dock.online_since:
        # It goes on and off before too, as when the dock switches its aircraft on.
        going = task.events.filter(kind=TaskEvent.Kind.PROGRESS).exclude(result=errors.RESTARTED)
        signs = (task.sent_at, going.aggregate(at=Max("at"))["at"])
        if dock.online_since > max(filter(None, signs), default=dock.online_since):
            return dock.online_since, dock.topology_at
    told = max(filter(None, (task.progress_at, task.taken_at)), default=None)
    return proof.last_sign(task), told


def _shortfall(task: UpgradeTask) -> str:
    targets = list(task.targets.all())
    for target in targets:
        target.task = task
    return proof.shortfall(targets)


def _is_over(since: dt.datetime | None, limit: float, heard: Heard) -> bool:
    """Whether the time is over, and somebody has listened long enough to have heard otherwise."""
    silence = heard.until - (since or heard.since)
    return _has_caught_up(heard, limit) and silence > dt.timedelta(seconds=limit)


def _has_caught_up(heard: Heard, limit: float) -> bool:
    return heard.until - heard.since > min(dt.timedelta(seconds=limit), BridgeSession.CATCH_UP)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
