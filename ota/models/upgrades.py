"""Upgrade tasks, what they upgrade, and their history."""

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Concat, Left

from database import bulk, reading
from fleet import versions
from fleet.models import Device, Organization
from ota import errors, states
from ota.models.packages import FirmwarePackage
from ota.models.rollouts import Rollout, Wave
from ota.states import TaskStatus


def new_bid() -> str:
    return str(uuid.uuid4())


class UpgradeTaskQuerySet(models.QuerySet["UpgradeTask"]):
    def shares(self) -> dict[str, int]:
        """How many have which status, those that none has left out; one query."""
        return dict(self.order_by().values_list("status").annotate(models.Count("pk")))

    def open(self) -> Self:
        return self.filter(status__in=states.OPEN)

    def in_flight(self) -> Self:
        return self.filter(status__in=states.IN_FLIGHT)

    def waiting(self) -> Self:
        """Not issued yet, in an open wave of a rollout that runs."""
        return self.filter(
            status=TaskStatus.PENDING,
            rollout__status=Rollout.Status.RUNNING,
            wave__opened_at__isnull=False,
        )

    def with_targets(self) -> Self:
        """With targets and their devices, in two queries for any number of tasks.

        ``prefetch_related("targets__device")`` fails on SQLite beyond a thousand devices: Django
        compares each with an OR of its own.
        """
        targets = UpgradeTarget.objects.select_related("device")
        return self.prefetch_related(models.Prefetch("targets", targets))

    def not_retried(self) -> Self:
        """Without those that another task tries again; these are resolved, so few are looked up."""
        retry = UpgradeTask.objects.filter(retry_of=models.OuterRef("pk"))
        return self.filter(models.Q(resolved_at=None) | ~models.Exists(retry))

    def retried(self) -> Self:
        """Those that another task tries again; what ``not_retried`` leaves out."""
        retry = UpgradeTask.objects.filter(retry_of=models.OuterRef("pk"))
        # That they have ended without success says nothing new, and has the index of those that have.
        ended = models.Q(finished_at__isnull=False, status__in=states.UNSUCCESSFUL)
        return self.filter(ended, models.Exists(retry), resolved_at__isnull=False)

    def needing_attention(self) -> Self:
        """Ended without success, and nobody has retried or dismissed them yet."""
        # The last condition says nothing new; with it, the indexes of those that have ended serve.
        ended = models.Q(finished_at__isnull=False)
        return self.filter(ended, status__in=states.UNSUCCESSFUL, resolved_at=None)

    def move(
        self,
        pks: Iterable[int],
        target: TaskStatus,
        now: dt.datetime,
        text: str = "",
        *,
        only_from: Iterable[TaskStatus] | None = None,
        actor: Any = None,
        result: int | None = None,
        **fields: Any,
    ) -> list[int]:
        """The one place that writes a status: those tasks that may move do, with a line of history.

        ``result`` is the device's code, kept in both; ``fields`` are set along with the status.
        Returns the primary keys that moved; a task that is elsewhere already, or at its end, is
        left alone.
        """
        wanted = list(pks)
        if not wanted:
            return []
        allowed = set(states.sources(target)) & set(only_from or TaskStatus)
        if result is not None:
            fields["result"] = result
        if target in states.TERMINAL:
            why = "" if target == TaskStatus.OK else text[:500]
            ended = {"finished_at": now, "waits_for": [], "due_at": None, "message": why}
            fields = ended | fields
        if target == TaskStatus.SENT:  # how an earlier attempt ended says nothing about this one
            fields = {"result": None, "message": ""} | fields
        if target == TaskStatus.OK:  # proven, whatever the device has said on the way
            told_none = models.When(result=None, then=models.Value(None))
            success = models.Value(0, models.IntegerField())
            fields["result"] = models.Case(told_none, default=success)
        with transaction.atomic():
            rows = self.filter(pk__among=wanted, status__in=allowed).order_by("pk")
            found = dict(rows.select_for_update().values_list("pk", "status"))
            if found:
                fields |= {"status": target, "status_at": now}
                UpgradeTask.objects.filter(pk__among=found).update(**fields)
                line = {"kind": TaskEvent.Kind.STATUS, "at": now, "to_status": target}
                line |= {"text": text, "actor_id": actor.pk if actor else None, "result": result}
                bulk.insert_rows(
                    TaskEvent,
                    [line | {"task_id": pk, "from_status": old} for pk, old in found.items()],
                )
        return list(found)

    def call_off(
        self, pks: Iterable[int], now: dt.datetime, text: str, actor: Any = None
    ) -> list[int]:
        """Ends those of the tasks that wait; returns their primary keys.

        Only what was never sent is canceled. A command that went out may have done something, or has
        failed: that needs somebody, whatever it was called off for.
        """
        waiting = self.filter(pk__among=list(pks), status=TaskStatus.PENDING)
        # Nor a retry by hand that was not sent: what the command before it did is as unknown as before.
        never = models.Q(attempt=0, retry_of=None)
        sent, has_failed = waiting.exclude(never), models.Q(result__isnull=False, result__gt=0)
        again = {
            "text": f"not sent again: {text}",
            "message": _with_last(f"not sent again: {text}"),
        }
        ends: list[tuple[UpgradeTaskQuerySet, TaskStatus, dict[str, Any]]] = [
            (waiting.filter(never), TaskStatus.CANCELED, {"text": text}),
            (sent.filter(has_failed), TaskStatus.FAILED, again),
            (sent.exclude(has_failed), TaskStatus.TIMEOUT, again),
        ]
        moved: list[int] = []
        for those, end, said in ends:
            moved += those.move(those.values_list("pk", flat=True), end, now, actor=actor, **said)
        return moved


def _with_last(text: str) -> models.Expression:
    """What a task ends with: what its last attempt left, and this."""
    alone = models.When(message="", then=models.Value(text[:500]))
    both = Concat("message", models.Value(f"; {text}"), output_field=models.CharField())
    return models.Case(alone, default=Left(both, 500), output_field=models.CharField())


class UpgradeTask(reading.QuickModel):
    """One ``ota_create`` to one gateway, followed to its end; upgrades one or two devices."""

    Status = TaskStatus

    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="tasks", db_index=False)
    wave = models.ForeignKey(Wave, models.PROTECT, related_name="tasks")
    gateway = models.ForeignKey(
        Device, models.PROTECT, related_name="tasks", verbose_name="dock", db_index=False
    )
    # Whose the dock was when this was planned; nobody else's is upgraded by it.
    organization = models.ForeignKey(
        Organization, models.SET_NULL, null=True, related_name="+", db_index=False
    )
    bid = models.CharField(max_length=64, default=new_bid)
    status = models.CharField(max_length=12, choices=TaskStatus, default=TaskStatus.PENDING)
    status_at = models.DateTimeField()
    attempt = models.PositiveSmallIntegerField(
        default=0, help_text="How often the command was sent."
    )

    # Before the command: what it waits for, when that was last looked at and when to look again.
    waits_for = models.JSONField(default=list, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    is_ready = models.BooleanField(default=False)
    is_absent = models.BooleanField(default=False, help_text="Waits for a dock that is offline.")
    not_before = models.DateTimeField(
        null=True, blank=True
    )  # start jitter, or a pause between tries
    ready_at = models.DateTimeField(null=True, blank=True)

    # After it: by our clock, except ``progress_at`` and ``taken_at``, which are by the dock's. They
    # order its reports, and tell what it said before it took the last command.
    sent_at = models.DateTimeField(null=True, blank=True)
    replied_at = models.DateTimeField(null=True, blank=True)
    taken_at = models.DateTimeField(null=True, blank=True)
    progress_at = models.DateTimeField(null=True, blank=True)
    progress_seen_at = models.DateTimeField(null=True, blank=True)
    device_ok_at = models.DateTimeField(null=True, blank=True)
    unanswered = models.PositiveSmallIntegerField(
        default=0, help_text="How many commands in a row a dock that was heard did not answer."
    )
    retries = models.PositiveSmallIntegerField(
        default=0, help_text="How often it was sent again after a failure."
    )
    retry_of = models.OneToOneField(
        "self", models.SET_NULL, null=True, blank=True, related_name="retried_as"
    )
    resolved_at = models.DateTimeField(
        null=True, blank=True, help_text="When somebody retried or dismissed it after its failure."
    )
    # Accepted the command long ago, and has never come for the package.
    no_show_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    percent = models.SmallIntegerField(null=True, blank=True)
    step = models.CharField(max_length=64, blank=True)
    rate = models.BigIntegerField(null=True, blank=True, help_text="Bytes a second.")
    result = models.IntegerField(null=True, blank=True)
    message = models.CharField(max_length=500, blank=True)

    objects = UpgradeTaskQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway"],
                condition=models.Q(status__in=sorted(states.OPEN)),
                name="one_open_task_for_a_gateway",
            ),
            # Not ``unique``, with which PostgreSQL gets a second index for what it begins with.
            models.UniqueConstraint(fields=["bid"], name="task_bid"),
        ]
        indexes = [
            # A page of a rollout's tasks, in the order in which they are issued.
            models.Index(fields=["rollout", "id"], name="task_rollout"),
            models.Index(fields=["rollout", "status", "id"], name="task_rollout_status"),
            models.Index(fields=["status", "id"], name="task_status"),
            models.Index(fields=["gateway", "status"], name="task_gateway_status"),
            # Not only over the unsuccessful ones: SQLite would not use it for them.
            models.Index(
                fields=["status", "finished_at"],
                condition=models.Q(finished_at__isnull=False),
                name="task_ended",
            ),
            models.Index(
                fields=["status", "resolved_at"],
                condition=models.Q(finished_at__isnull=False),
                name="task_to_settle",
            ),
            models.Index(
                fields=["rollout", "status", "resolved_at"],
                condition=models.Q(finished_at__isnull=False),
                name="task_rollout_to_settle",
            ),
            models.Index(
                fields=["finished_at"], condition=models.Q(result__gt=0), name="task_with_result"
            ),
            # Hardly any task is a retry. SQLite takes all that are none for one value, and would
            # rather read every task than look into the index of the unique constraint.
            models.Index(
                fields=["retry_of"], condition=models.Q(retry_of__isnull=False), name="task_retry"
            ),
        ]

    def __str__(self) -> str:
        return f"Upgrade of {self.gateway}"

    @property
    def tid(self) -> str:
        """The id of the last command sent; each attempt has its own, the ``bid`` stays."""
        return str(uuid.uuid5(uuid.UUID(self.bid), str(self.attempt)))

    @property
    def is_dock_silent(self) -> bool:
        """Whether the dock has not been heard since the last command went out."""
        seen = self.gateway.last_seen_at
        return (
            self.attempt > 0 and self.sent_at is not None and (seen is None or seen < self.sent_at)
        )

    @property
    def needs_attention(self) -> bool:
        """Whether it ended without success, and nobody has retried or dismissed it yet."""
        return self.status in states.UNSUCCESSFUL and self.resolved_at is None

    @property
    def advice(self) -> str | None:
        return errors.advice(self.result)


class UpgradeTarget(reading.QuickModel):
    """One device inside a task: from, to, how, and the proof."""

    class Type(models.TextChoices):
        REGULAR = "regular", "Regular"
        CONSISTENCY = "consistency", "Consistency"

    # Cloud API, firmware_upgrade_type.
    WIRE_TYPES = {Type.REGULAR: 3, Type.CONSISTENCY: 2}

    task = models.ForeignKey(UpgradeTask, models.CASCADE, related_name="targets")
    device = models.ForeignKey(Device, models.PROTECT, related_name="upgrades")
    package = models.ForeignKey(
        FirmwarePackage, models.PROTECT, related_name="targets", db_index=False
    )
    upgrade_type = models.CharField(max_length=12, choices=Type)
    from_version = models.CharField(max_length=64)
    to_version = models.CharField(max_length=64)
    reported_version = models.CharField(max_length=64, blank=True)
    confirmed_at = models.DateTimeField("proven", null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["task", "device"], name="device_once_in_a_task")
        ]
        indexes = [models.Index(fields=["package", "task"], name="target_package")]

    def __str__(self) -> str:
        return f"{self.device}: {self.from_version} to {self.to_version}"

    @property
    def how(self) -> str:
        """What kind of upgrade it is, for people; the device is told nothing of a downgrade."""
        before, after = versions.number(self.from_version), versions.number(self.to_version)
        is_back = before is not None and after is not None and after < before
        return "Downgrade" if is_back else self.get_upgrade_type_display()

    @property
    def is_consistency(self) -> bool:
        return self.upgrade_type == self.Type.CONSISTENCY

    @property
    def is_confirmed(self) -> bool:
        return self.confirmed_at is not None


class TaskEvent(models.Model):
    """One line of a task's history; written once, never changed."""

    class Kind(models.TextChoices):
        STATUS = "status", "Status"
        COMMAND = "command", "Command"
        REPLY = "reply", "Reply"
        PROGRESS = "progress", "Progress"
        NOTE = "note", "Note"

    # Whoever writes a line has the task's row under a lock, and nothing but Django deletes tasks. A
    # constraint would look the task up again for each of a million lines a day: 7 us of 70.
    task = models.ForeignKey(
        UpgradeTask, models.CASCADE, related_name="events", db_constraint=False
    )
    at = models.DateTimeField()
    kind = models.CharField(max_length=10, choices=Kind)
    # Equal for repeated deliveries of one message, so that each stands here once. It begins with
    # the message's time: rows come in the order of this index, and only its end is written to.
    key = models.UUIDField(null=True, unique=True)
    reported_at = models.DateTimeField("device's clock", null=True)
    tid = models.CharField(max_length=64, blank=True)
    bid = models.CharField(max_length=64, blank=True)
    from_status = models.CharField(max_length=12, blank=True)
    to_status = models.CharField(max_length=12, blank=True)
    device_status = models.CharField(max_length=64, blank=True)
    percent = models.SmallIntegerField(null=True)
    step = models.CharField(max_length=64, blank=True)
    rate = models.BigIntegerField(null=True)
    result = models.IntegerField(null=True)
    is_late = models.BooleanField(
        default=False, help_text="Came after a newer report or after the end."
    )
    text = models.CharField(max_length=500, blank=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, db_index=False)

    class Meta:
        ordering = ["pk"]
        # By far the most rows are progress, which nobody did: each index costs all of them.
        indexes = [
            models.Index(
                fields=["actor"], condition=models.Q(actor__isnull=False), name="event_actor"
            ),
            models.Index(
                fields=["at"], condition=models.Q(kind="progress"), name="event_progress_at"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} at {self.at:%Y-%m-%d %H:%M:%S}"


class ForeignUpgrade(models.Model):
    """An upgrade of a dock that we did not start (Pilot 2, another server); blocks ours."""

    gateway = models.ForeignKey(
        Device, models.CASCADE, related_name="foreign_upgrades", verbose_name="dock"
    )
    bid = models.CharField(max_length=64, blank=True)
    device_status = models.CharField(max_length=64, blank=True)
    percent = models.SmallIntegerField(null=True)
    step = models.CharField(max_length=64, blank=True)
    result = models.IntegerField(null=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    progress_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway"],
                condition=models.Q(finished_at=None),
                name="one_open_foreign_upgrade",
            )
        ]

    def __str__(self) -> str:
        return f"Foreign upgrade of {self.gateway}"
