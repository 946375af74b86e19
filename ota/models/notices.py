"""What people are told: the news, each person's notices of it, and what is sent to other systems."""

import secrets
import uuid

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleet.models import Organization, validate_time_zone
from ota import windows
from ota.models.packages import FirmwarePackage
from ota.models.rollouts import Rollout
from ota.models.sealed import SealedField
from ota.models.upgrades import UpgradeTask


class Kind(models.TextChoices):
    """What news may be about."""

    STARTED = "started", "Rollout started"
    STOPPED = "stopped", "Rollout paused by itself"
    STANDSTILL = "standstill", "Rollout stands still"
    NEEDS_APPROVAL = "needs_approval", "Rollout needs approval"
    WAVE_WAITING = "wave_waiting", "Wave waits for a click"
    FINISHED = "finished", "Rollout finished"
    ON_SITE = "on_site", "A dock needs a person on site"
    DAMAGED = "damaged", "Package damaged"


class Whose(models.TextChoices):
    """Of which rollouts somebody wants to hear."""

    ALL = "all", "All rollouts"
    MINE = "mine", "Those I started"
    NONE = "none", "None"


class News(models.Model):
    """One thing that happened and is told; the clock makes notices and deliveries of it."""

    kind = models.CharField(max_length=16, choices=Kind)
    at = models.DateTimeField()
    title = models.CharField(max_length=300)
    text = models.CharField(max_length=500, blank=True)
    rollout = models.ForeignKey(Rollout, models.CASCADE, null=True, related_name="+")
    # At most one for a task, however often it is looked at.
    task = models.OneToOneField(UpgradeTask, models.CASCADE, null=True, related_name="news")
    package = models.ForeignKey(FirmwarePackage, models.CASCADE, null=True, related_name="+")
    told_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "news"
        indexes = [
            models.Index(fields=["id"], condition=Q(told_at=None), name="news_untold"),
            models.Index(fields=["at"], name="news_at"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def path(self) -> str:
        """The page in the console that it is about."""
        if self.task_id:
            return reverse("admin:ota_upgradetask_change", args=[self.task_id])
        if self.rollout_id:
            return reverse("admin:ota_rollout_change", args=[self.rollout_id])
        return reverse("admin:ota_firmwarepackage_change", args=[self.package_id])

    @property
    def url(self) -> str:
        return f"{settings.PUBLIC_URL}{self.path}"


class Notice(models.Model):
    """Some news as one person gets it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notices")
    news = models.ForeignKey(News, models.CASCADE, related_name="notices")
    at = models.DateTimeField()
    is_shown = models.BooleanField(default=True, help_text="In the console.")
    read_at = models.DateTimeField(null=True)
    # When its e-mail goes; none where it has gone, is given up, or is not wanted.
    mail_at = models.DateTimeField(null=True)
    mail_attempts = models.PositiveSmallIntegerField(default=0)
    mailed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-pk"]
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["user", "news"], name="notice_once_for_a_person")
        ]
        indexes = [
            models.Index(
                fields=["user"], condition=Q(is_shown=True, read_at=None), name="notice_unread"
            ),
            models.Index(
                fields=["mailed_at"], condition=Q(mailed_at__isnull=False), name="notice_mailed"
            ),
            models.Index(
                fields=["mail_at"], condition=Q(mail_at__isnull=False), name="notice_mail"
            ),
        ]

    def __str__(self) -> str:
        return str(self.news)


def validate_quiet_hours(text: str) -> None:
    try:
        found = windows.parse(text)
    except windows.InvalidWindows as error:
        raise ValidationError(str(error)) from error
    if found and windows.longest(found) >= 7 * windows.DAY:
        raise ValidationError("These hours never end; switch e-mail off instead.")


class Preference(models.Model):
    """Of what a person wants to hear and how: in general, or for the docks of one organization.

    ``console`` and ``email`` say for each kind of news of whose rollouts.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    organization = models.ForeignKey(Organization, models.CASCADE, null=True, related_name="+")
    console = models.JSONField(default=dict)
    email = models.JSONField(default=dict)
    # For all organizations: those of the general one count.
    quiet_hours = models.CharField(
        max_length=1000,
        blank=True,
        validators=[validate_quiet_hours],
        help_text=f"When e-mails wait, {windows.FORM}. Empty: never.",
    )
    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validate_time_zone],
        help_text="Of the quiet hours, by name, such as Europe/Zurich.",
    )

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["user", "organization"], name="one_preference_in_organization"
            ),
            models.UniqueConstraint(
                fields=["user"],
                condition=Q(organization=None),
                name="one_preference_in_general",
            ),
        ]

    def __str__(self) -> str:
        return f"Notices of {self.user}"


def new_secret() -> str:
    """43 characters, 256 bits."""
    return secrets.token_urlsafe(32)


def validate_kinds(value: list[str]) -> None:
    if unknown := sorted(set(value) - set(Kind.values)):
        raise ValidationError(f"{', '.join(unknown)}: no such kind of news.")


class Webhook(models.Model):
    """Where news of an organization's docks is posted."""

    organization = models.ForeignKey(Organization, models.CASCADE, related_name="webhooks")
    url = models.CharField(
        "address",
        max_length=500,
        help_text="Such as https://hooks.example.org/fleet.",
    )
    secret = SealedField(max_length=300, default=new_secret, editable=False)
    kinds = models.JSONField(default=list, validators=[validate_kinds])
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # One worker at a time sends to it; a killed one's claim ends by itself.
    claimed_until = models.DateTimeField(null=True, editable=False)
    # After a failure nothing is sent for a while, whatever waits.
    rests_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["organization", "url"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "url"],
                name="webhook_once_in_organization",
                violation_error_message="The organization has a webhook with this address already.",
            )
        ]

    def __str__(self) -> str:
        return f"Webhook to {self.url}"


class WebhookDelivery(models.Model):
    """Some news on its way to a webhook, and what became of it."""

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Given up"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    webhook = models.ForeignKey(Webhook, models.CASCADE, related_name="deliveries")
    news = models.ForeignKey(News, models.CASCADE, related_name="+")
    # What concerns the webhook's organization; of a rollout other organizations may have docks too.
    text = models.CharField(max_length=500, blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    created_at = models.DateTimeField()
    next_at = models.DateTimeField("next attempt", null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    tried_at = models.DateTimeField("last attempt", null=True)
    http_code = models.PositiveSmallIntegerField("HTTP status", null=True)
    error = models.CharField(max_length=500, blank=True)
    response = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "webhook deliveries"
        constraints = [
            models.UniqueConstraint(fields=["webhook", "news"], name="delivery_once_of_news")
        ]
        indexes = [
            models.Index(
                fields=["webhook", "next_at"],
                condition=Q(status="pending"),
                name="delivery_pending",
            ),
            models.Index(fields=["created_at"], name="delivery_created"),
        ]

    def __str__(self) -> str:
        return f"{self.news} to {self.webhook}"
