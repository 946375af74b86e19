"""Rollouts: an operator's decision that these devices get these versions; their waves and history."""

import hashlib

from django.conf import settings
from django.db import models
from django.utils import timezone

from fleet.models import DeviceModel, Organization, Site
from fleet.names import NameField
from ota.models.policies import Policy
from ota.states import RolloutStatus

FROM_THE_TERMINAL = "from the terminal"


class Rollout(Policy):
    """These devices to these versions, under a policy."""

    Status = RolloutStatus

    name = NameField(max_length=200)
    status = models.CharField(
        max_length=16, choices=RolloutStatus, default=RolloutStatus.RUNNING, db_index=True
    )
    target_version = models.CharField(
        max_length=64, blank=True, help_text="Empty: the newest available version of each model."
    )
    allow_downgrade = models.BooleanField(default=False)
    # What that one has had stays with it, also while this one stays open.
    rest_of = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+")
    is_automatic = models.BooleanField(default=False, help_text="The system has started it.")
    starts_at = models.DateTimeField(null=True, blank=True, help_text="Empty: at once.")
    deadline_at = models.DateTimeField(
        null=True, blank=True, help_text="What was not sent by then is canceled. Empty: never."
    )
    # Failures before this moment were seen by whoever resumed, and stop nothing again.
    judged_from = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    # How many tasks have which status, from the end on: an end is the end, so nobody counts them again.
    final_counts = models.JSONField(null=True, editable=False)
    pause_reason = models.CharField(max_length=500, blank=True)
    # Of somebody who may approve, where the organization wants a second person.
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    remark = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-pk"]
        permissions = [
            ("upgrade_devices", "Can start and cancel upgrades"),
            ("approve_rollout", "Can approve rollouts of others"),
        ]

    def __str__(self) -> str:
        return self.name

    def is_as(self, other: "Rollout") -> bool:
        """Whether all of its row is as it was when ``other`` was read."""
        names = [field.attname for field in self._meta.concrete_fields]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def digest(self) -> str:
        """Equal while all is as it was decided, whatever its upgrades do meanwhile; one query.

        A pause is known by its line of history, because its reason may be that of the one before.
        Times that follow a clock that was set are nobody's decision.
        """
        pauses = (RolloutEvent.Kind.PAUSED, RolloutEvent.Kind.STOPPED)
        lines = RolloutEvent.objects.filter(rollout=self.pk, kind__in=pauses)
        told = [getattr(self, name) for name in _DECIDED]
        told.append(lines.aggregate(last=models.Max("pk"))["last"])
        return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


_DECIDED = (
    *("status", "pause_reason", "decided_at"),
    *("starts_at", "deadline_at", "target_version", "allow_downgrade"),
    *(field.name for field in Policy._meta.fields),
)


class Criterion(models.Model):
    """Which devices a rollout was started for, where that was no list picked by hand: a part of them.

    All that is named has to fit. While the rollout stays open, what comes to fit joins it.
    """

    rollout = models.ForeignKey(Rollout, models.CASCADE, related_name="criteria")
    kind = models.CharField(max_length=10, blank=True)
    need = models.CharField(max_length=12, blank=True)
    # With one of these its criterion goes too: an empty one would mean any.
    model = models.ForeignKey(DeviceModel, models.CASCADE, null=True, related_name="+")
    organization = models.ForeignKey(Organization, models.CASCADE, null=True, related_name="+")
    site = models.ForeignKey(Site, models.CASCADE, null=True, related_name="+")
    with_aircraft = models.BooleanField(default=False, help_text="Also those of fitting docks.")

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        kind = DeviceModel.Kind(self.kind).label.lower() if self.kind else "device"
        parts = [
            f"{self.model} devices" if self.model else f"every {kind}",
            f"of {self.organization}" if self.organization else "",
            f"at {self.site}" if self.site else "",
            f"with the need {self.need}" if self.need else "",
            "and the aircraft of these docks" if self.with_aircraft else "",
        ]
        return " ".join(part for part in parts if part)


class Offer(models.Model):
    """What devices of a model get that join a rollout: decided when it was started."""

    rollout = models.ForeignKey(Rollout, models.CASCADE, related_name="offers")
    model = models.ForeignKey(DeviceModel, models.CASCADE, related_name="offers")
    version = models.CharField(max_length=64)
    number = models.BigIntegerField(help_text="The version as a number that sorts.")

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "model"], name="one_offer_for_a_model")
        ]

    def __str__(self) -> str:
        return f"{self.model}: {self.version}"


class Wave(models.Model):
    """One ordered part of a rollout. The gate behind it opens the next one."""

    rollout = models.ForeignKey(Rollout, models.CASCADE, related_name="wave_set")
    number = models.PositiveIntegerField()
    title = models.CharField(max_length=200, blank=True, help_text="Such as a site's name.")
    gate = models.PositiveSmallIntegerField(
        help_text="Percent of the finished that must be proven."
    )
    opened_at = models.DateTimeField(null=True, blank=True)
    opened_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    met_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when its gate has been met without a break."
    )

    class Meta:
        ordering = ["rollout", "number"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "number"], name="wave_number_in_rollout")
        ]

    def __str__(self) -> str:
        return f"wave {self.number}"


class RolloutEvent(models.Model):
    """One line of a rollout's history: who did what to it; no actor where the system or a command did."""

    class Kind(models.TextChoices):
        STARTED = "started", "Started"
        NEEDS_APPROVAL = "needs_approval", "Needs approval"
        APPROVED = "approved", "Approved"
        DENIED = "denied", "Denied"
        PAUSED = "paused", "Paused"
        STOPPED = "stopped", "Paused by itself"
        STANDSTILL = "standstill", "Stands still"
        RESUMED = "resumed", "Resumed"
        CANCELED = "canceled", "Canceled"
        WAVE_OPENED = "wave_opened", "Wave opened"
        WAVE_WAITING = "wave_waiting", "Wave waits for a click"
        JOINED = "joined", "Joined"
        CLOSED = "closed", "Closed"
        RETRIED = "retried", "Retried"
        DISMISSED = "dismissed", "Dismissed"
        CHANGED = "changed", "Changed"
        DEADLINE = "deadline", "Deadline passed"
        FINISHED = "finished", "Finished"

    rollout = models.ForeignKey(Rollout, models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=16, choices=Kind)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    text = models.CharField(max_length=500, blank=True)
    told_at = models.DateTimeField(null=True, help_text="When people were told, if they are.")

    class Meta:
        ordering = ["pk"]
        indexes = [
            models.Index(
                fields=["id"], condition=models.Q(told_at=None), name="rollout_event_untold"
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.text}"

    @property
    def by(self) -> str:
        """Who did it, in words; a command in nobody's name says so at the end of its text."""
        if self.actor:
            return str(self.actor)
        return FROM_THE_TERMINAL if self.text.endswith(FROM_THE_TERMINAL) else "by itself"
