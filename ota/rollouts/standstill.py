"""Rollouts that run, and in which nothing has happened for a day: somebody is told what they wait for."""

import datetime as dt
from collections import Counter
from typing import Any

from django.db.models import Max

from console.counts import count
from mqtt_bridge.models import BridgeSession
from ota.models import Rollout, RolloutEvent, UpgradeTask
from ota.rollouts import course
from ota.states import TaskStatus

AFTER = dt.timedelta(days=1)
NAMED = 5  # docks
# Nobody has to do anything about these: their time comes.
_TIMES = {"hours", "not_started", "not_yet"}
_TURN = "for their turn"


def tell(now: dt.datetime) -> None:
    """Writes into the history of each what it waits for, once a day; hearing of that starts the next day."""
    for rollout in Rollout.objects.filter(status=Rollout.Status.RUNNING).order_by("pk"):
        is_still = _last_moved(rollout) <= now - AFTER
        if is_still and (reason := _reason(rollout, now)):
            course.note(rollout.pk, RolloutEvent.Kind.STANDSTILL, now, reason)


def _last_moved(rollout: Rollout) -> dt.datetime:
    moved = rollout.tasks.aggregate(at=Max("status_at"))["at"]
    told = rollout.events.aggregate(at=Max("at"))["at"]
    return max(at for at in (rollout.created_at, rollout.starts_at, moved, told) if at)


def _reason(rollout: Rollout, now: dt.datetime) -> str:
    """What it waits for, in words; empty if it will go on by itself, or has nothing to do."""
    if under_way := list(
        rollout.tasks.in_flight().order_by("pk").values_list("gateway__sn", flat=True)
    ):
        return _of_silence(under_way, now)
    waiting = rollout.tasks.waiting().order_by("pk").values_list("gateway__sn", "waits_for")
    tasks = [(sn, [reason["code"] for reason in reasons]) for sn, reasons in waiting]
    stuck = [(sn, codes) for sn, codes in tasks if not _TIMES.intersection(codes)]
    if stuck:
        return _of_tasks(stuck)
    return "" if tasks else _of_waves(rollout)


def _of_silence(under_way: list[str], now: dt.datetime) -> str:
    """Why nobody hears how these go on; empty if somebody does."""
    why = _silence(now)
    if not why:
        return ""
    are = count(len(under_way), "upgrade is", "upgrades are")
    they_end = "it ends" if len(under_way) == 1 else "they end"
    what, remedy = why
    return (
        f"{are} under way, and {what}: nobody may hear how {they_end}. {remedy}. "
        f"Look at {', '.join(under_way[:NAMED])}."
    )


def _silence(now: dt.datetime) -> tuple[str, str] | None:
    """Why we do not hear the docks, and what to do about it."""
    heard = BridgeSession.objects.heard(now)
    if heard is None:
        away = BridgeSession.objects.away(now).first()
        what = f"bridge {away} is away" if away else "the MQTT bridge is not listening"
        return what, "Start the bridge"
    if now - heard.until > AFTER:
        what = "the MQTT bridge is more than a day behind"
        return what, "It needs a faster machine, or a second bridge in its group"
    return None


def _of_tasks(stuck: list[tuple[str, list[str]]]) -> str:
    counts = Counter(codes[0] if codes else _TURN for _, codes in stuck)
    shares = ", ".join(f"{number:,} {code}" for code, number in counts.most_common())
    docks = ", ".join(sn for sn, _ in stuck[:NAMED])
    waiting = count(len(stuck), "upgrade waits", "upgrades wait")
    return f"{waiting}: {shares}. Look at {docks}."


def _of_waves(rollout: Rollout) -> str:
    """A gate that nothing meets any more; one that was met opens the next wave by itself, or asks."""
    waves: list[Any] = list(rollout.wave_set.order_by("number"))
    closed = [wave for wave in waves if wave.opened_at is None]
    if not closed or closed[0].number == 1:
        return ""
    last = waves[closed[0].number - 2]
    standing = course.standings([rollout.pk]).get(last.pk, course.Standing())
    if last.met_at and not standing.proves_nothing:
        return ""
    planned = UpgradeTask.objects.filter(wave__in=closed, status=TaskStatus.PENDING)
    if not planned.exists():
        return ""
    if standing.proves_nothing:
        why = course.nothing_proven(last, standing)
        return f"{closed[0]} does not open by itself: {why}. Open the wave by hand, or cancel the rollout."
    return (
        f"{closed[0]} does not open: the gate of {last} is not met, and nothing "
        "goes on there. Retry what failed, lower the gate, or open the wave by hand."
    )
