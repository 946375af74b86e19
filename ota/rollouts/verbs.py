"""What operators do to a rollout; each is recorded, and does nothing when it is done already.

``remark`` is kept in the rollout's history, beside who did it. ``seen`` is the digest of the rollout that
somebody has looked at, where there was one.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet

from console.counts import count
from database import bulk
from fleet.models import Site
from ota import live
from ota.models import Rollout, RolloutEvent, TaskEvent, UpgradeTarget, UpgradeTask, Wave
from ota.rollouts import changes, course
from ota.rollouts.options import (
    FIELDS,
    NO_LIST,
    InvalidPolicy,
    clean,
    refuse_closed,
    refuse_past,
    refuse_times,
)
from ota.rollouts.planning import may_grow
from ota.states import OPEN, UNFINISHED, RolloutStatus, TaskStatus
from ota.upgrades import proof

Kind = RolloutEvent.Kind


class NotPossible(Exception):
    """The rollout is not in a state for this; the message says why."""


def pause(rollout: Rollout, now: dt.datetime, user: User | None = None, reason: str = "") -> bool:
    """Issues nothing more until ``resume``, what runs goes on; whether it was running."""
    who = f"paused by {user}" if user else "paused"
    return course.pause(rollout, reason or who, now, user)


def resume(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    remark: str = "",
    seen: str = "",
) -> bool:
    """Goes on after a pause; whether it was paused. What failed until now stops it no more.

    Raises:
        NotPossible: something else was decided, or it was paused anew, since it was ``seen``.
    """
    with transaction.atomic():
        paused = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.PAUSED)
        _refuse_unseen(paused, seen)
        changed = paused.update(status=Rollout.Status.RUNNING, pause_reason="", judged_from=now)
        if changed:
            waiting = UpgradeTask.objects.filter(rollout=rollout, status=TaskStatus.PENDING)
            waiting.update(checked_at=None, is_ready=False)
            course.note(rollout.pk, Kind.RESUMED, now, remark, user)
            course.announce_waiting(rollout)
    return bool(changed)


def _refuse_unseen(rollouts: QuerySet[Rollout], seen: str) -> None:
    """Refuses what nobody has looked at as it is now; it stays like that until the transaction ends."""
    found = rollouts.select_for_update(of=("self",), no_key=True).first() if seen else None
    if found and found.digest != seen:
        raise NotPossible(
            f"Nothing was done: {found} has changed since it was looked at. "
            "Please look at it once more."
        )


def cancel(rollout: Rollout, now: dt.datetime, user: User | None = None, remark: str = "") -> int:
    """Calls off what waits and returns how many; a running upgrade cannot be stopped.

    A task whose command went out and got no reply may be running too, so it is followed on.
    """
    with transaction.atomic():
        going = Rollout.objects.filter(pk=rollout.pk, status__in=UNFINISHED)
        changed = going.update(status=Rollout.Status.CANCELED, pause_reason="")
        waiting = rollout.tasks.filter(status=TaskStatus.PENDING).values_list("pk", flat=True)
        canceled = course.cancel_tasks(waiting, now, user)
        if changed:
            text = course.joined(course.called_off(len(canceled)), remark)
            course.note(rollout.pk, Kind.CANCELED, now, text, user)
    return len(canceled)


def canceled_in_words(rollout: Rollout, canceled: int, now: dt.datetime) -> str:
    """What ``cancel`` came to: only what was never sent is canceled, and what was sent goes on."""
    text = f"Called off {count(canceled, 'upgrade')} that waited."
    sent = rollout.tasks.filter(finished_at=now).exclude(status=TaskStatus.CANCELED).count()
    if sent:
        need = "it needs" if sent == 1 else "they need"
        text += f" {sent:,} of them had been sent before: {need} attention."
    if under_way := rollout.tasks.open().count():
        go_on = "was sent already and goes on to its end" if under_way == 1 else _GO_ON
        text += f" {under_way:,} {go_on}."
    return text


_GO_ON = "were sent already and go on to their end"


def close(rollout: Rollout, now: dt.datetime, user: User | None = None, remark: str = "") -> bool:
    """Lets nobody join any more, so that it can finish; whether it was open until now."""
    with transaction.atomic():
        staying = Rollout.objects.filter(pk=rollout.pk, status__in=UNFINISHED, keeps_open=True)
        closed = staying.update(keeps_open=False)
        if closed:
            course.note(rollout.pk, Kind.CLOSED, now, remark, user)
    return bool(closed)


def open_next_wave(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    remark: str = "",
    number: int | None = None,
) -> Wave | None:
    """Opens the next wave now, whatever its gate says; None if all are open.

    Who names its ``number`` opens that one or, if it is open already or not the next, none. A start
    that lies ahead is now: what the wave holds would wait for it.

    Raises:
        NotPossible: the rollout does not run.
    """
    with transaction.atomic():
        locked = Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        if locked.status != Rollout.Status.RUNNING:
            hint = " Resume it first." if locked.status == Rollout.Status.PAUSED else ""
            status = locked.get_status_display().lower()
            raise NotPossible(f"{locked} is {status}, not running.{hint}")
        wave = course.open_next(locked, now, user, remark, number)
        if wave and locked.starts_at and locked.starts_at > now:
            change(locked, {"starts_at": now}, now, user, remark)
    return wave


def approve(
    rollout: Rollout, now: dt.datetime, user: User, remark: str = "", seen: str = ""
) -> None:
    """Lets a rollout start that needs a second person.

    Raises:
        NotPossible: it does not wait for one, the person is its author, or something else was decided
            since it was ``seen``.
    """
    with transaction.atomic():
        waiting = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.NEEDS_APPROVAL)
        _refuse_unseen(waiting, seen)
        _decide(rollout, RolloutStatus.RUNNING, Kind.APPROVED, now, user, remark)
    rollout.refresh_from_db()
    if rollout.starts_at is None or rollout.starts_at <= now:
        course.open_next(rollout, now, user, number=1)  # which a tick may have opened by now


def deny(rollout: Rollout, now: dt.datetime, user: User, remark: str = "") -> None:
    """Cancels a rollout that needs a second person.

    Raises:
        NotPossible: it does not wait for one, or the person is its author.
    """
    with transaction.atomic():
        _decide(rollout, RolloutStatus.CANCELED, Kind.DENIED, now, user, remark)
        waiting = rollout.tasks.filter(status=TaskStatus.PENDING).values_list("pk", flat=True)
        course.cancel_tasks(waiting, now, user, "its rollout was denied")


def _decide(
    rollout: Rollout,
    status: RolloutStatus,
    kind: Kind,
    now: dt.datetime,
    user: User,
    remark: str,
) -> None:
    if rollout.created_by_id == user.pk:
        raise NotPossible("Somebody else than the author has to approve a rollout.")
    with transaction.atomic():
        waiting = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.NEEDS_APPROVAL)
        if not waiting.update(
            status=status, decided_by=user, decided_at=now, remark=remark[:500], judged_from=now
        ):
            raise NotPossible(f"{rollout} does not wait for approval.")
        course.note(rollout.pk, kind, now, remark, user)


def retry(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    pks: Iterable[int] | None = None,
    remark: str = "",
) -> list[UpgradeTask]:
    """Plans what failed anew, all or those of ``pks``; returns the new tasks.

    A dock that another upgrade has taken meanwhile is left as it is. A deadline that has passed is
    lifted: it would cancel at once what somebody has just asked for.

    Raises:
        NotPossible: the rollout was canceled.
    """
    with transaction.atomic():
        locked = Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        if locked.status == Rollout.Status.CANCELED:
            raise NotPossible(f"{rollout} was canceled; start another one.")
        failed = _failed(rollout, pks).filter(
            ~Exists(UpgradeTask.objects.filter(gateway=OuterRef("gateway"), status__in=OPEN))
        )
        found = [_again(task, now, user) for task in failed.with_targets()]
        made = [task for task in found if task]
        UpgradeTask.objects.filter(retried_as__in=made).update(resolved_at=now)
        if made:
            text = course.joined(f"{count(len(made), 'upgrade')}{_reopen(locked, now)}", remark)
            course.note(rollout.pk, Kind.RETRIED, now, text, user)
    changed = (pk for task in made for pk in (task.pk, task.retry_of_id) if pk)
    live.announce((rollout.pk, pk) for pk in changed)
    return made


def _reopen(rollout: Rollout, now: dt.datetime) -> str:
    """Makes a rollout go on for what is retried; tells what that changed."""
    fields: dict[str, Any] = {}
    if rollout.status == Rollout.Status.FINISHED:
        fields |= {"status": Rollout.Status.RUNNING, "finished_at": None}
    is_late = rollout.deadline_at is not None and rollout.deadline_at <= now
    if is_late:
        fields["deadline_at"] = None
    if fields:
        Rollout.objects.filter(pk=rollout.pk).update(**fields)
    return "; the deadline, which has passed, holds no longer" if is_late else ""


def _failed(rollout: Rollout, pks: Iterable[int] | None) -> Any:
    failed = UpgradeTask.objects.filter(rollout=rollout).needing_attention().order_by("pk")
    return failed if pks is None else failed.filter(pk__among=pks)


def _settle(task: UpgradeTask, now: dt.datetime, user: User | None) -> None:
    """Of a failure whose devices have what they should there is nothing to try again."""
    UpgradeTask.objects.filter(pk=task.pk).update(resolved_at=now)
    text = "not tried again: its devices report what they should"
    line = TaskEvent(task=task, at=now, kind=TaskEvent.Kind.NOTE, actor=user, text=text)
    bulk.insert([line])


def _again(task: UpgradeTask, now: dt.datetime, user: User | None) -> UpgradeTask | None:
    """A new task for what is not proven yet; None if nothing is left, or another took the dock this very moment.

    By hand and seldom, so some statements each are fine.
    """
    # A device that has proved it may have lost it since.
    left = [one for one in task.targets.all() if not (one.is_confirmed and proof.has(one))]
    if not left:
        _settle(task, now, user)
        return None
    try:
        with transaction.atomic():
            new = UpgradeTask.objects.create(
                rollout_id=task.rollout_id,
                wave_id=task.wave_id,
                gateway_id=task.gateway_id,
                organization_id=task.organization_id,
                status_at=now,
                retry_of=task,
            )
    except IntegrityError:
        return None
    for target in left:
        UpgradeTarget.objects.create(
            task=new,
            device_id=target.device_id,
            package_id=target.package_id,
            upgrade_type=target.upgrade_type,
            from_version=target.device.firmware_version or target.from_version,
            to_version=target.to_version,
        )
    bulk.insert(
        [
            TaskEvent(
                task=new,
                at=now,
                kind=TaskEvent.Kind.STATUS,
                to_status=TaskStatus.PENDING,
                actor=user,
                text=f"planned again after {task.get_status_display().lower()}",
            )
        ]
    )
    return new


def dismiss(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    pks: Iterable[int] | None = None,
    remark: str = "",
) -> int:
    """Takes what failed, all or those of ``pks``, off the list of what needs attention; returns how many."""
    with transaction.atomic():
        failed = list(_failed(rollout, pks).values_list("pk", flat=True))
        done = UpgradeTask.objects.filter(pk__in=failed, resolved_at=None).update(resolved_at=now)
        if done:
            text = course.joined(count(done, "upgrade"), remark)
            course.note(rollout.pk, Kind.DISMISSED, now, text, user)
    live.announce((rollout.pk, pk) for pk in failed)
    return done


def change(
    rollout: Rollout,
    fields: Mapping[str, Any],
    now: dt.datetime,
    user: User | None = None,
    remark: str = "",
) -> list[str]:
    """Changes the policy, the start or the deadline while it runs; returns what changed, in words.

    Waves are cut when a rollout starts, so their sizes stay.

    Raises:
        InvalidPolicy: a value is not right.
        NotPossible: the rollout has ended.
    """
    allowed = {*FIELDS, "starts_at", "deadline_at", "name"} - {"waves"}
    if unknown := sorted(set(fields) - allowed):
        raise InvalidPolicy(unknown[0], f"{', '.join(unknown)} cannot be changed.")
    with transaction.atomic():
        found = Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        if found.status not in UNFINISHED:
            raise NotPossible(f"{rollout} has ended.")
        told = [
            changes.told(name, getattr(found, name), value)
            for name, value in fields.items()
            if getattr(found, name) != value
        ]
        if fields.get("keeps_open") and not found.keeps_open:
            _refuse_to_open(found)
        if fields.get("starts_at") != found.starts_at:
            refuse_past(fields.get("starts_at"), now)
        for name, value in fields.items():
            setattr(found, name, value)
        _clean(found, fields, now)
        if told:
            found.save(update_fields=list(fields))
            Wave.objects.filter(rollout=found, number=1).update(gate=found.gate_first)
            Wave.objects.filter(rollout=found, number__gt=1).update(gate=found.gate)
            waiting = UpgradeTask.objects.filter(rollout=found, status=TaskStatus.PENDING)
            waiting.update(checked_at=None, is_ready=False)
            course.note(found.pk, Kind.CHANGED, now, course.joined("; ".join(told), remark), user)
    return told


def _refuse_to_open(rollout: Rollout) -> None:
    """Refuses that devices join where nobody knows which, or where a second person has not seen that."""
    criteria = list(rollout.criteria.all())
    if not criteria:
        raise InvalidPolicy("keeps_open", NO_LIST)
    if may_grow(criteria):
        text = "A second person has to approve who may join: start a rollout that stays open."
        raise InvalidPolicy("keeps_open", text)


def _clean(rollout: Rollout, fields: Mapping[str, Any], now: dt.datetime) -> None:
    clean(rollout, fields)
    if {"starts_at", "deadline_at"} & set(fields):
        refuse_times(rollout.starts_at, rollout.deadline_at, now)
    if rollout.deadline_at and _TIMES & set(fields):
        start = max(rollout.starts_at or now, now)
        refuse_closed(rollout, _waiting_sites(rollout), start, rollout.deadline_at)


_TIMES = {"starts_at", "deadline_at", "windows", "expected_minutes"}


def _waiting_sites(rollout: Rollout) -> list[Site | None]:
    """Where the docks stand that were not sent to yet."""
    waiting = rollout.tasks.filter(status=TaskStatus.PENDING).order_by()
    pks = set(waiting.values_list("gateway__site", flat=True).distinct())
    nowhere: list[Site | None] = [None] if None in pks else []
    return nowhere + list(Site.objects.filter(pk__in=pks - {None}))
