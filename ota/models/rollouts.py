"""Rollouts: an operator's decision that these devices get these versions."""

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models

from ota.states import RolloutStatus


class Rollout(models.Model):
    """These devices to these versions, so many at a time."""

    Status = RolloutStatus

    name = models.CharField(max_length=200)
    status = models.CharField(
        max_length=10, choices=RolloutStatus, default=RolloutStatus.RUNNING, db_index=True
    )
    limit_in_flight = models.PositiveIntegerField(
        validators=[MinValueValidator(1)], help_text="How many docks may be upgrading at once."
    )
    target_version = models.CharField(
        max_length=64, blank=True, help_text="Empty: the newest available version of each model."
    )
    allow_downgrade = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    pause_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-pk"]
        permissions = [("upgrade_devices", "Can start and cancel upgrades")]

    def __str__(self) -> str:
        return self.name
