"""What must hold, whatever people, docks, workers and clocks do."""

import datetime as dt
import zoneinfo
from collections import Counter
from typing import Any

from django.conf import settings
from django.db.models import Max, Q
from django.utils import timezone

from ota import errors, states, steadiness
from ota.errors import Remedy
from ota.models import Rollout, TaskEvent, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.needs import LOW_BATTERY, Situation
from ota.states import TaskStatus
from ota.upgrades import judging
from tests.histories import History
from tests.ota.model.choices import HOURS
from tests.ota.model.fleet import Dock
from tests.ota.model.world import World

Command = dict[str, Any]


class Judges(World):
    """Judges each command at the moment at which it leaves, and all rows after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.bids: dict[int, str] = {}
        self.tids: set[str] = set()
        self.sent: Counter[str] = Counter()  # commands, by how many devices they are for
        self.history, self.last_event = History(), 0
        self.retried: Counter[int] = Counter()
        self.ended: dict[int, str] = {}

    # Each command

    def judge(self, dock: Dock, command: Command) -> None:
        task = UpgradeTask.objects.select_related("rollout", "wave", "gateway__site").get(
            bid=command["bid"]
        )
        assert not (dock.working and dock.told_work), f"{dock} works already"
        assert command["tid"] not in self.tids
        self.tids.add(command["tid"])
        self.sent[f"commands for {len(command['data']['devices'])}"] += 1
        assert self.bids.setdefault(task.pk, command["bid"]) == command["bid"]
        self.judge_moment(task, timezone.now())
        self.judge_knowledge(dock, command)
        self.judge_limits(task)

    def judge_moment(self, task: UpgradeTask, now: dt.datetime) -> None:
        rollout = task.rollout
        assert rollout.status == Rollout.Status.RUNNING
        assert task.wave.opened_at
        assert rollout.starts_at is None or rollout.starts_at <= now
        assert rollout.deadline_at is None or rollout.deadline_at > now
        assert is_long_enough(task, now)

    def judge_knowledge(self, dock: Dock, command: Command) -> None:
        """A command goes out on what the dock has told since it came online, and to its own devices."""
        told, sns = dock.told, {device["sn"] for device in command["data"]["devices"]}
        assert told.get("mode_code") == 0, told
        assert not told.get("aircraft_mode"), told
        if aircraft := sns - {dock.sn}:
            assert aircraft == {told["sub_device"]["device_sn"]}
            assert told["drone_in_dock"] == 1
            assert told["drone_charge_state"]["capacity_percent"] > LOW_BATTERY

    def judge_limits(self, task: UpgradeTask) -> None:
        """A limit of a site holds for who has it: other rollouts may come to the site right after."""
        rollout, flying = task.rollout, self.flying()
        assert flying.filter(rollout=rollout).count() <= rollout.limit_in_flight
        if settings.SYSTEM_LIMIT_IN_FLIGHT:
            assert flying.count() <= settings.SYSTEM_LIMIT_IN_FLIGHT
        if rollout.limit_per_site and task.gateway.site_id:
            is_command = Q(events__kind=TaskEvent.Kind.COMMAND)
            same = flying.filter(gateway__site=task.gateway.site_id).order_by()
            last = dict(same.annotate(at=Max("events", filter=is_command)).values_list("pk", "at"))
            before = [at for at in last.values() if at <= last[task.pk]]
            assert len(before) <= rollout.limit_per_site

    def flying(self) -> UpgradeTaskQuerySet:
        return UpgradeTask.objects.in_flight()

    # All rows

    def history_adds_up(self) -> None:
        for event in TaskEvent.objects.filter(pk__gt=self.last_event).order_by("pk"):
            self.last_event = event.pk
            self.history.add(event)
            if event.text.endswith("tried again after a pause"):
                self.retried[event.task_id] += 1
                assert self.retried[event.task_id] <= most_retries(event.result)
        self.history.assert_adds_up()

    def what_has_ended_stays(self) -> None:
        statuses = dict(
            UpgradeTask.objects.filter(status__in=states.TERMINAL).values_list("pk", "status")
        )
        assert self.ended.items() <= statuses.items()
        self.ended = statuses

    def check_what_waits(self) -> None:
        """After a tick each open task says what it waits for, and each rollout without one has ended."""
        if not steadiness.is_steady(timezone.now()):
            return
        open_ = UpgradeTask.objects.open().select_related("rollout", "wave", "gateway")
        for task in open_.filter(status=TaskStatus.PENDING):
            self.check_reason(task)
        self.check_nothing_is_clear_and_waits()
        self.check_no_slot_stays_free()
        waiting = set(UpgradeTask.objects.open().values_list("rollout", flat=True))
        ended = set(Rollout.objects.exclude(finished_at=None).values_list("pk", flat=True))
        assert not waiting & ended
        unfinished = Rollout.objects.filter(finished_at=None).exclude(pk__in=waiting)
        if unfinished.exists():
            self.tick_now()
        assert not unfinished.exists()

    def check_reason(self, task: UpgradeTask) -> None:
        rollout = task.rollout
        if rollout.status == Rollout.Status.RUNNING and task.wave.opened_at:
            assert task.waits_for or task.is_ready, task.__dict__
        else:
            assert rollout.status != Rollout.Status.PAUSED or rollout.pause_reason
            assert rollout.status in states.UNFINISHED

    def check_nothing_is_clear_and_waits(self) -> None:
        """What nothing blocks any more is known to be ready, or is looked at within five seconds."""
        now = timezone.now()
        situation = Situation(now)
        for task, targets in judging._read(UpgradeTask.objects.waiting().filter(is_ready=False)):
            if judging._end(task, targets, situation):
                continue
            to_send = [target for target in targets if not target.is_confirmed]
            if not judging._waits_for(task, to_send, situation):
                assert task.due_at, task.waits_for
                assert task.due_at <= now + judging.LOOK_AGAIN, task.waits_for

    def check_no_slot_stays_free(self) -> None:
        """A slot for what is ready is taken; one tick later where another task could not take it."""
        for _ in self.docks:
            if not self.left_out():
                return
            self.tick_now()
        assert not self.left_out()

    def left_out(self) -> list[UpgradeTask]:
        """What is ready and has a slot, and was not sent."""
        ready = UpgradeTask.objects.waiting().filter(is_ready=True)
        found = ready.select_related("rollout", "gateway")
        return [task for task in found if has_slot(task, self.flying())]

    def left_over(self) -> list[Any]:
        found = UpgradeTask.objects.open().select_related("rollout")
        return [(t.pk, t.status, t.waits_for, t.rollout.status, t.due_at) for t in found]


def has_slot(task: UpgradeTask, flying: UpgradeTaskQuerySet) -> bool:
    rollout, site = task.rollout, task.gateway.site_id
    most = settings.SYSTEM_LIMIT_IN_FLIGHT
    return (
        flying.filter(rollout=rollout).count() < rollout.limit_in_flight
        and not (most and flying.count() >= most)
        and not (
            site
            and rollout.limit_per_site
            and flying.filter(gateway__site=site).count() >= rollout.limit_per_site
        )
    )


def is_long_enough(task: UpgradeTask, now: dt.datetime) -> bool:
    """Minute by minute on the site's clock."""
    site = task.gateway.site
    zone = zoneinfo.ZoneInfo(site.time_zone if site else settings.TIME_ZONE)
    is_open, minutes = HOURS[task.rollout.windows], task.rollout.expected_minutes
    moments = [now + dt.timedelta(minutes=minute) for minute in range(minutes)]
    moments.append(now + dt.timedelta(minutes=minutes, seconds=-1))
    return all(is_open(moment.astimezone(zone)) for moment in moments)


def most_retries(result: int | None) -> int:
    if not result:
        return settings.RETRIES
    limits = {
        Remedy.WAIT: settings.WAIT_RETRIES,
        Remedy.RETRY: settings.RETRIES,
        Remedy.RETRY_AFTER_FIX: 1,
    }
    return limits.get(errors.explain(result).remedy, 0)
