"""How devices, packages and rollouts stand, as documents for scripts and the console.

Keys and their order are what ``--json`` promises; times are ISO 8601, sizes bytes, rates bytes a second.
"""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.contrib.auth.models import User

from fleet import telemetry
from ota import rollouts, states
from ota.models import FirmwarePackage, Rollout, RolloutEvent, UpgradeTarget, UpgradeTask, Wave
from ota.models.rollouts import FROM_THE_TERMINAL
from ota.needs import Answer
from ota.rollouts import Standing
from ota.states import TaskStatus

Document = dict[str, Any]


class Tally(NamedTuple):
    """How many tasks have each status, those that none has included: all, and without those retried."""

    all: dict[str, int]
    current: dict[str, int]

    @property
    def retried(self) -> int:
        return sum(self.all.values()) - sum(self.current.values())


def of_device(answer: Answer, now: dt.datetime) -> Document:
    """One device: what it reports and what it needs. Empty is null: it was never reported.

    Who is silent is offline, whether or not a worker has written that down yet.
    """
    device = answer.device
    return {
        "sn": device.sn,
        "model_key": device.model.key if device.model else None,
        "model": device.model.name if device.model else None,
        "kind": str(device.kind),
        "gateway_sn": device.gateway.sn if device.gateway else None,
        "organization": device.organization.identifier if device.organization else None,
        "site": device.site.name if device.site else None,
        "online": device.is_online and not telemetry.is_silent(device.last_seen_at, now),
        "last_seen_at": _time(device.last_seen_at),
        "firmware_version": device.firmware_version or None,
        "compatible_status": device.compatible_status,
        "firmware_upgrade_status": device.firmware_upgrade_status,
        "mode_code": device.mode_code,
        "need": str(answer.need),
        "target_version": answer.package.version if answer.package else None,
        "blockers": [reason.as_json() for reason in answer.blockers],
    }


def of_package(package: FirmwarePackage) -> Document:
    return {
        "id": package.pk,
        "file_name": package.file_name,
        "models": sorted(model.key for model in package.models.all()),
        "version": package.version,
        "released_on": package.released_on.isoformat() if package.released_on else None,
        "size": package.size,
        "md5": package.md5,
        "state": str(package.state),
        "minimum_version": package.minimum_version or None,
    }


def of_rollout(rollout: Rollout) -> Document:
    """A rollout with all its tasks, which are what is counted; three queries, whatever their number."""
    found = rollout.tasks.order_by("pk").select_related("gateway", "wave")
    tasks = list(found.with_targets())
    stand = _standings(tasks)
    return {
        "rollout_id": rollout.pk,
        "name": rollout.name,
        "status": str(rollout.status),
        "pause_reason": pause_reason(rollout),
        "created_at": _time(rollout.created_at),
        "starts_at": _time(rollout.starts_at),
        "deadline_at": _time(rollout.deadline_at),
        "counts": _none() | Counter(str(task.status) for task in tasks),
        "waves": _waves(rollout, stand),
        "tasks": of_tasks(tasks, rollout),
    }


def _standings(tasks: Sequence[UpgradeTask]) -> dict[int, Standing]:
    """What ``rollouts.standings`` tells, of the very tasks that are told beside it."""
    retried = {task.retry_of_id for task in tasks}
    found: defaultdict[int, Standing] = defaultdict(Standing)
    for task in tasks:
        if task.pk not in retried:
            is_finished, is_proven = task.status in states.FINISHED, task.status == TaskStatus.OK
            one = Standing(tasks=1, finished=int(is_finished), proven=int(is_proven))
            found[task.wave_id] = found[task.wave_id].plus(one)
    return found


def authors(rollouts: Sequence[Rollout]) -> dict[int, str]:
    """Who has started each of the rollouts, in words; empty if nobody knows any more. One query at most."""
    found = {each.pk: "the system" if each.is_automatic else _by(each) for each in rollouts}
    unknown = [pk for pk, author in found.items() if not author]
    if unknown:
        began = (RolloutEvent.Kind.STARTED, RolloutEvent.Kind.NEEDS_APPROVAL)
        lines = RolloutEvent.objects.filter(rollout__in=unknown, kind__in=began, actor=None)
        terminal = lines.filter(text__endswith=FROM_THE_TERMINAL)
        found |= dict.fromkeys(terminal.values_list("rollout", flat=True), FROM_THE_TERMINAL)
    return found


def _by(rollout: Rollout) -> str:
    return str(rollout.created_by) if rollout.created_by else ""


def of_decision(rollout: Rollout) -> Document:
    """What was decided for a rollout, by whom, how its waves stand and who needs attention."""
    parked = rollout.tasks.needing_attention().order_by("pk").select_related("gateway", "wave")
    return {
        "rollout_id": rollout.pk,
        "name": rollout.name,
        "status": str(rollout.status),
        "pause_reason": pause_reason(rollout),
        "created_at": _time(rollout.created_at),
        "created_by": _name(rollout.created_by),
        "is_automatic": rollout.is_automatic,
        "starts_at": _time(rollout.starts_at),
        "deadline_at": _time(rollout.deadline_at),
        "finished_at": _time(rollout.finished_at),
        "decided_at": _time(rollout.decided_at),
        "decided_by": _name(rollout.decided_by),
        "remark": rollout.remark or None,
        "target_version": rollout.target_version or None,
        "allow_downgrade": rollout.allow_downgrade,
        "policy": {name: getattr(rollout, name) for name in rollouts.FIELDS},
        "counts": counts(rollout),
        "waves": of_waves(rollout),
        "needs_attention": of_tasks(parked.with_targets(), rollout),
        "history": of_history(rollout),
    }


def of_waves(rollout: Rollout) -> list[Document]:
    """The waves in their order; two queries."""
    return _waves(rollout, rollouts.standings([rollout.pk]))


def _waves(rollout: Rollout, found: Mapping[int, Standing]) -> list[Document]:
    return [
        _wave(wave, found.get(wave.pk, Standing())) for wave in rollout.wave_set.order_by("number")
    ]


def _wave(wave: Wave, standing: Standing) -> Document:
    return {
        "number": wave.number,
        "title": wave.title,
        "opened_at": _time(wave.opened_at),
        "tasks": standing.tasks,
        "finished": standing.finished,
        "proven": standing.proven,
        "failed": standing.finished - standing.proven,
        "gate": wave.gate,
    }


def of_history(rollout: Rollout) -> list[Document]:
    """What happened to a rollout, oldest first; one query."""
    return [
        {"at": _time(event.at), "kind": event.kind, "user": _name(event.actor), "text": event.text}
        for event in rollout.events.order_by("pk").select_related("actor")
    ]


def pause_reason(rollout: Rollout) -> str | None:
    """Why a rollout is paused; None if it is not."""
    return rollout.pause_reason if rollout.status == Rollout.Status.PAUSED else None


def counts(rollout: Rollout) -> dict[str, int]:
    """How many tasks have each status, those that none has included; one query."""
    return _none() | rollout.tasks.shares()


def tally(rollout: Rollout) -> Tally:
    """The same, and without the tasks that were retried; two queries that cost what an index does."""
    # In this order: a retry of this very moment leaves its failure there, and no 100 % too early.
    retried = rollout.tasks.retried().shares()
    found = counts(rollout)
    return Tally(found, {word: number - retried.get(word, 0) for word, number in found.items()})


def _none() -> dict[str, int]:
    return dict.fromkeys((str(status) for status in TaskStatus), 0)


def is_over(found: dict[str, int]) -> bool:
    """Whether counts show that all tasks have ended."""
    return not any(found[status] for status in states.OPEN)


def of_tasks(tasks: Iterable[UpgradeTask], rollout: Rollout) -> list[Document]:
    """Tasks of a rollout whose ``gateway``, ``wave`` and ``targets__device`` have been fetched."""
    return [_task(task, rollout) for task in tasks]


def _task(task: UpgradeTask, rollout: Rollout) -> Document:
    # Else nobody looks at the dock, and what was written down before may be over long since.
    is_looked_at = rollout.status == Rollout.Status.RUNNING
    return {
        "gateway_sn": task.gateway.sn,
        "wave": task.wave.number,
        "bid": task.bid,
        "status": str(task.status),
        "percent": task.percent,
        "step": task.step or None,
        "rate": task.rate,
        "result": task.result,
        "advice": task.advice,
        "message": task.message or None,
        "attempt": task.attempt,
        "retries": task.retries,
        "not_before": _time(task.not_before),
        "needs_attention": task.needs_attention,
        "no_show": task.no_show_at is not None,
        "waits_for": task.waits_for if is_looked_at else [],
        "targets": [_target(target) for target in task.targets.all()],
    }


def _target(target: UpgradeTarget) -> Document:
    return {
        "sn": target.device.sn,
        "upgrade_type": str(target.upgrade_type),
        "from_version": target.from_version,
        "to_version": target.to_version,
        "reported_version": target.reported_version or None,
        "confirmed": target.is_confirmed,
    }


def _name(user: User | None) -> str | None:
    return user.get_username() if user else None


def _time(at: dt.datetime | None) -> str | None:
    return at.isoformat() if at else None
