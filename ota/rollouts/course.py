"""How a rollout goes on by itself: its waves open, it stops where it goes wrong, and it ends.

The tick is stateless: it reads what is true now and writes what follows from it, each with a guard, so
that two at once do no harm. What it costs does not grow with the number of tasks.
"""

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q

from console.counts import count
from database import bulk
from ota import live
from ota.models import Rollout, RolloutEvent, UpgradeTask, Wave
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import FINISHED, OPEN, UNFINISHED, UNSUCCESSFUL, TaskStatus
from ota.upgrades import hours

Kind = RolloutEvent.Kind


class Standing(NamedTuple):
    """How the tasks of a wave stand. Of those ``waiting``, ``absent`` wait for a dock that is offline.

    ``judged`` and ``failed`` leave out what was known when the rollout was resumed last.
    """

    tasks: int = 0
    finished: int = 0
    proven: int = 0
    waiting: int = 0
    absent: int = 0
    canceled: int = 0
    judged: int = 0
    failed: int = 0

    @property
    def is_under_way(self) -> bool:
        """Whether something still happens or is about to, docks that are away left aside."""
        return self.tasks > self.finished + self.canceled + self.absent

    @property
    def proves_nothing(self) -> bool:
        """Whether nothing of a wave will ever show how its upgrades go: all was canceled, or none is in it."""
        return self.tasks == self.canceled

    def plus(self, other: "Standing") -> "Standing":
        return Standing(*(mine + its for mine, its in zip(self, other, strict=True)))


_NOTHING = Standing()
LINE = 500  # characters of a line of history


def note(
    rollout_id: int, kind: Kind, now: dt.datetime, text: str = "", user: User | None = None
) -> None:
    """Adds a line to a rollout's history."""
    RolloutEvent.objects.create(
        rollout_id=rollout_id, at=now, kind=kind, actor=user, text=text[:LINE]
    )
    live.announce([(rollout_id, 0)])


def called_off(number: int) -> str:
    """That so many upgrades were, for a history."""
    return f"{count(number, 'upgrade was', 'upgrades were')} called off"


def joined(text: str, remark: str) -> str:
    """What happened, and what somebody remarked about it, as one line of a history; the first gives way."""
    room = max(LINE - len(f"; {remark}"), 0) if remark else LINE
    return "; ".join(part for part in (text[:room], remark) if part)


def advance(now: dt.datetime) -> None:
    """Starts, stops, opens and ends what is due; a handful of queries and one for each change."""
    expire(now)
    running = list(Rollout.objects.filter(status=Rollout.Status.RUNNING).order_by("pk"))
    if running:
        _advance(running, now)
    finish(now)


def _advance(running: Sequence[Rollout], now: dt.datetime) -> None:
    waves: defaultdict[int, list[Wave]] = defaultdict(list)
    for wave in Wave.objects.filter(rollout__in=running).order_by("number"):
        waves[wave.rollout_id].append(wave)
    found = standings([rollout.pk for rollout in running])
    for rollout in running:
        mine = [found.get(wave.pk, _NOTHING) for wave in waves[rollout.pk]]
        if reason := _reason_to_stop(rollout, waves[rollout.pk], mine):
            _stop(rollout, reason, now)
        else:
            _open_what_is_due(rollout, waves[rollout.pk], mine, now)


def standings(rollouts: Sequence[int]) -> dict[int, Standing]:
    """How the waves of rollouts stand, by the wave's key; one query."""
    finished = Q(status__in=FINISHED)
    judged = finished & Q(finished_at__gt=F("rollout__judged_from"), resolved_at=None)
    waiting = Q(status=TaskStatus.PENDING)
    tasks = UpgradeTask.objects.filter(rollout__in=rollouts).not_retried().order_by()
    rows = tasks.values_list("wave").annotate(
        tasks=Count("pk"),
        finished=Count("pk", filter=finished),
        proven=Count("pk", filter=Q(status=TaskStatus.OK)),
        waiting=Count("pk", filter=waiting),
        absent=Count("pk", filter=waiting & Q(is_absent=True)),
        canceled=Count("pk", filter=Q(status=TaskStatus.CANCELED)),
        judged=Count("pk", filter=judged),
        failed=Count("pk", filter=judged & Q(status__in=UNSUCCESSFUL)),
    )
    return {wave: Standing(*counts) for wave, *counts in rows}


# Stopping


def _reason_to_stop(rollout: Rollout, waves: Sequence[Wave], found: Sequence[Standing]) -> str:
    """Why the rollout has to pause, in words; empty if it may go on."""
    whole = _NOTHING
    for standing in found:
        whole = whole.plus(standing)
    if not whole.waiting:  # nothing is left that stopping would hold back
        return ""
    if rollout.max_failed is not None and whole.failed > rollout.max_failed:
        return f"{count(whole.failed, 'upgrade')} failed; at most {rollout.max_failed:,} may"
    for name, standing in [("the rollout", whole), *zip(map(str, waves), found, strict=True)]:
        if _is_too_bad(rollout, standing):
            return (
                f"{standing.failed:,} of {standing.judged:,} finished upgrades of {name} failed; "
                f"at most {rollout.max_failed_percent} % may"
            )
    return ""


def _is_too_bad(rollout: Rollout, standing: Standing) -> bool:
    if rollout.max_failed_percent is None or standing.judged < rollout.failed_after:
        return False
    return 100 * standing.failed > rollout.max_failed_percent * standing.judged


def _stop(rollout: Rollout, reason: str, now: dt.datetime) -> None:
    """Pauses it, and says whom to look at."""
    failed = UpgradeTask.objects.filter(rollout=rollout).needing_attention()
    newest = failed.order_by("-finished_at").values_list("gateway__sn", flat=True)[:5]
    stop(rollout, f"{reason}. Look at {', '.join(newest)}.", now)


def stop(rollout: Rollout, reason: str, now: dt.datetime) -> bool:
    """Pauses a rollout because something is wrong, not because somebody wants it; whether it was running."""
    return pause(rollout, reason, now, kind=Kind.STOPPED)


def pause(
    rollout: Rollout,
    reason: str,
    now: dt.datetime,
    user: User | None = None,
    kind: Kind = Kind.PAUSED,
) -> bool:
    """Issues nothing more until ``resume``, what runs goes on; whether it was running."""
    with transaction.atomic():
        running = Rollout.objects.filter(pk=rollout.pk, status=Rollout.Status.RUNNING)
        changed = running.update(status=Rollout.Status.PAUSED, pause_reason=reason[:500])
        if changed:
            note(rollout.pk, kind, now, reason, user)
            announce_waiting(rollout)
    return bool(changed)


def announce_waiting(rollout: Rollout) -> None:
    """Tells of the tasks whose note says whether the rollout runs."""
    waiting = UpgradeTask.objects.filter(rollout=rollout, status=TaskStatus.PENDING)
    live.announce((rollout.pk, pk) for pk in waiting.values_list("pk", flat=True))


# Waves


def _open_what_is_due(
    rollout: Rollout, waves: Sequence[Wave], found: Sequence[Standing], now: dt.datetime
) -> None:
    closed = [wave for wave in waves if wave.opened_at is None]
    if not closed or (rollout.starts_at and rollout.starts_at > now):
        return
    if closed[0].number == 1:
        _open_by_itself(rollout, 1, now)
        return
    number = closed[0].number - 1
    last, standing = waves[number - 1], found[number - 1]
    if not standing.proves_nothing:
        _pass_gate(rollout, last, standing, now)
    elif any(behind.waiting for behind in found[number:]):
        _ask(rollout, last, now, why=f": {nothing_proven(last, standing)}")


def nothing_proven(wave: Wave, standing: Standing) -> str:
    """Why a wave lets nobody know how its upgrades go, in words."""
    why = "all of it was canceled" if standing.tasks else "no upgrade is in it"
    return f"nothing of {wave} was proven, because {why}"


def _pass_gate(rollout: Rollout, last: Wave, standing: Standing, now: dt.datetime) -> None:
    if not _is_met(last, standing):
        Wave.objects.filter(pk=last.pk, met_at__isnull=False).update(met_at=None)
        _stop_if_missed(rollout, last, standing, now)
        return
    if last.met_at is None:
        Wave.objects.filter(pk=last.pk, met_at=None).update(met_at=now)
        last.met_at = now
    if rollout.asks_between_waves:
        _ask(rollout, last, now, since=last.met_at)
    soaked = last.met_at + dt.timedelta(minutes=rollout.soak_minutes) <= now
    if soaked and not rollout.asks_between_waves:
        _open_by_itself(rollout, last.number + 1, now)


def _stop_if_missed(rollout: Rollout, wave: Wave, standing: Standing, now: dt.datetime) -> None:
    """A gate that nothing can meet any more needs somebody; not once more for what was known then."""
    if standing.is_under_way or not standing.failed:
        return
    reason = (
        f"{standing.proven:,} of {standing.finished:,} finished upgrades of {wave} are proven; at least "
        f"{wave.gate} % must be before the next wave opens"
    )
    _stop(rollout, reason, now)


def _ask(
    rollout: Rollout, last: Wave, now: dt.datetime, why: str = "", since: dt.datetime | None = None
) -> None:
    """Says once that the next wave waits for a click, also if the question came after the gate.

    A gate may be missed and met again: that is asked anew. What was canceled whole stays so.
    """
    text = f"wave {last.number + 1} waits for a click{why}"
    asked = rollout.events.filter(kind=Kind.WAVE_WAITING, text=text)
    if since:
        asked = asked.filter(at__gte=since)
    if asked.exists():
        return
    with transaction.atomic():
        Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        if not asked.exists():  # of two ticks at once
            note(rollout.pk, Kind.WAVE_WAITING, now, text)


def _open_by_itself(rollout: Rollout, number: int, now: dt.datetime) -> None:
    """Opens the wave, unless somebody has changed anything about the rollout since it was read.

    The next tick decides anew then: the gate, the soak time or the question may be another one.
    """
    with transaction.atomic():
        locked = Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        if locked.is_as(rollout):
            open_next(locked, now, number=number)


def _is_met(wave: Wave, standing: Standing) -> bool:
    """Docks that are away do not hold the next wave back; a wave of which nothing is proven does."""
    if standing.is_under_way or not standing.finished:
        return False
    return 100 * standing.proven >= wave.gate * standing.finished


def open_next(
    rollout: Rollout,
    now: dt.datetime,
    user: User | None = None,
    remark: str = "",
    number: int | None = None,
) -> Wave | None:
    """Opens the first wave that is not open yet; None if all are, or if it has not this number."""
    with transaction.atomic():
        wave = (
            Wave.objects.select_for_update(of=("self",))
            .filter(rollout=rollout, opened_at=None)
            .order_by("number")
            .first()
        )
        if wave is None or number not in {None, wave.number}:
            return None
        Wave.objects.filter(pk=wave.pk).update(opened_at=now, opened_by=user)
        _scatter(rollout, wave, now)
        note(rollout.pk, Kind.WAVE_OPENED, now, joined(f"wave {wave.number}", remark), user)
    return wave


def _scatter(rollout: Rollout, wave: Wave, now: dt.datetime) -> None:
    """Gives each task of a wave a moment of its own within the start jitter."""
    tasks = UpgradeTask.objects.filter(wave=wave, status=TaskStatus.PENDING)
    if rollout.jitter_seconds:
        pks = tasks.values_list("pk", flat=True)
        rows = {pk: {"not_before": scattered(rollout, now)} for pk in pks}
        bulk.update(UpgradeTask, ("not_before",), rows)
    tasks.update(checked_at=None)


def scattered(rollout: Rollout, now: dt.datetime) -> dt.datetime | None:
    """A moment within the rollout's start jitter; None where it has none."""
    if not rollout.jitter_seconds:
        return None
    seconds = random.uniform(0, rollout.jitter_seconds)  # noqa: S311  # spreads a load, keeps no secret
    return now + dt.timedelta(seconds=seconds)


# Ends


def expire(now: dt.datetime) -> None:
    """Cancels what was not issued by its rollout's deadline, and lets nobody join any more."""
    late = Rollout.objects.filter(status__in=UNFINISHED, deadline_at__lte=now)
    for rollout in late.filter(Exists(_waiting_of(OuterRef("pk"))) | Q(keeps_open=True)):
        _expire(rollout, now)


def _expire(rollout: Rollout, now: dt.datetime) -> None:
    """Under the lock that those hold who extend the deadline; they may have this very moment."""
    with transaction.atomic():
        late = Rollout.objects.filter(pk=rollout.pk, deadline_at__lte=now)
        if not late.select_for_update(of=("self",)):
            return
        waiting = _waiting_of(rollout.pk).values_list("pk", flat=True)
        canceled = cancel_tasks(waiting, now, text=hours.overdue(rollout, now))
        closed = Rollout.objects.filter(pk=rollout.pk, keeps_open=True).update(keeps_open=False)
        text = called_off(len(canceled))
        note(rollout.pk, Kind.DEADLINE, now, joined(text, "it stays open no more" * closed))


def _waiting_of(rollout: int | OuterRef) -> UpgradeTaskQuerySet:
    return UpgradeTask.objects.filter(rollout=rollout, status=TaskStatus.PENDING)


def cancel_tasks(
    pks: Iterable[int],
    now: dt.datetime,
    user: User | None = None,
    text: str = "canceled",
) -> list[int]:
    """Calls off those of the tasks that wait; returns their primary keys."""
    moved = UpgradeTask.objects.call_off(pks, now, text, user)
    live.announce(UpgradeTask.objects.filter(pk__in=moved).values_list("rollout_id", "pk"))
    return moved


def finish(now: dt.datetime) -> None:
    """Ends the rollouts that have no open task left and that nobody can join any more.

    A command of a canceled rollout that came back unsent or unanswered does not go out again.
    """
    returned = UpgradeTask.objects.filter(
        status=TaskStatus.PENDING, rollout__status=Rollout.Status.CANCELED
    )
    cancel_tasks(returned.values_list("pk", flat=True), now)
    unfinished = Rollout.objects.filter(finished_at=None).exclude(
        Exists(UpgradeTask.objects.filter(rollout=OuterRef("pk"), status__in=OPEN))
    )
    unfinished = unfinished.exclude(keeps_open=True, status__in=UNFINISHED)
    for rollout in unfinished:
        _close(rollout, now)


def _close(rollout: Rollout, now: dt.datetime) -> None:
    """Looks once more under the lock that a retry holds: it may have planned something this moment."""
    with transaction.atomic():
        found = Rollout.objects.select_for_update(of=("self",), no_key=True).get(pk=rollout.pk)
        may_grow = found.keeps_open and found.status in UNFINISHED
        if found.finished_at or may_grow or found.tasks.open().exists():
            return
        status = Rollout.Status.FINISHED if found.status in UNFINISHED else found.status
        ended = Rollout.objects.filter(pk=found.pk)
        ended.update(
            status=status,
            finished_at=now,
            final_counts=found.tasks.shares(),
            pause_reason="",
            keeps_open=False,
        )
        note(found.pk, Kind.FINISHED, now)
