"""How a rollout goes on by itself: waves, gates, hours, limits, and when it stops."""

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from fleet.models import Organization
from ota import waves, windows

_PERCENT = [MinValueValidator(1), MaxValueValidator(100)]
MOST_IN_FLIGHT = 100_000
A_DAY = 24 * 60 * 60


def validate_waves(text: str) -> None:
    try:
        waves.parse(text)
    except waves.InvalidWaves as error:
        raise ValidationError(str(error)) from error


def validate_windows(text: str) -> None:
    try:
        windows.parse(text)
    except windows.InvalidWindows as error:
        raise ValidationError(str(error)) from error


class Policy(models.Model):
    """What a rollout has decided, and what an organization prefers."""

    waves = models.CharField(
        max_length=300,
        blank=True,
        validators=[validate_waves],
        help_text=f"Sizes, {waves.FORM}. Empty: all docks in one wave.",
    )
    gate_first = models.PositiveSmallIntegerField(
        "gate after the first wave",
        default=100,
        validators=_PERCENT,
        help_text="Percent of its finished upgrades that must be proven before the next wave opens.",
    )
    gate = models.PositiveSmallIntegerField(
        "gate after later waves", default=95, validators=_PERCENT, help_text="The same, in percent."
    )
    soak_minutes = models.PositiveIntegerField(
        "soak time",
        default=0,
        validators=[MaxValueValidator(30 * 24 * 60)],
        help_text="Minutes to wait after a gate is met, before the next wave opens.",
    )
    asks_between_waves = models.BooleanField(
        "ask me", default=False, help_text="Each further wave waits for a click."
    )
    max_failed = models.PositiveIntegerField(
        "stop after failures",
        null=True,
        blank=True,
        help_text="Pauses when more upgrades than this have failed. Empty: no limit.",
    )
    max_failed_percent = models.PositiveSmallIntegerField(
        "stop at a share of failures",
        null=True,
        blank=True,
        default=20,
        validators=[MaxValueValidator(100)],
        help_text="Pauses when more percent than this of the finished upgrades have failed, in the "
        "rollout or in one wave. Empty: no limit.",
    )
    failed_after = models.PositiveIntegerField(
        "judge shares from",
        default=10,
        validators=[MinValueValidator(1)],
        help_text="So many upgrades must have finished before their share of failures counts.",
    )
    limit_in_flight = models.PositiveIntegerField(
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_IN_FLIGHT)],
        help_text="How many docks may be upgrading at once.",
    )
    limit_per_site = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many docks of one site may be upgrading at once. Empty: no limit.",
    )
    jitter_seconds = models.PositiveIntegerField(
        "start jitter",
        default=0,
        validators=[MaxValueValidator(A_DAY)],
        help_text="Each upgrade of a wave starts up to so many seconds later, at random.",
    )
    windows = models.CharField(
        "hours",
        max_length=1000,
        blank=True,
        validators=[validate_windows],
        help_text="When commands may be sent, on each site's own clock, "
        f"{windows.FORM}. Empty: at any time.",
    )
    expected_minutes = models.PositiveIntegerField(
        "expected duration",
        default=45,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 60)],
        help_text="Minutes of an upgrade: a command is sent only if the hours last that much longer.",
    )

    keeps_open = models.BooleanField(
        "keep open",
        default=False,
        help_text="Devices that come to match the chosen list later join the last wave, until the "
        "deadline or until somebody closes the rollout.",
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        try:
            hours = windows.parse(self.windows)
        except windows.InvalidWindows:
            return  # told by the field's validator
        if hours and windows.longest(hours) < self.expected_minutes:
            text = (
                f"The hours last {windows.longest(hours)} min in a row at most, and an upgrade is "
                f"expected to take {self.expected_minutes} min: nothing would ever start."
            )
            raise ValidationError({"windows": text})


class OrganizationPolicy(Policy):
    """What the rollouts of an organization have unless somebody chooses otherwise."""

    organization = models.OneToOneField(Organization, models.CASCADE, related_name="policy")
    approval_above = models.PositiveIntegerField(
        "approval above",
        null=True,
        blank=True,
        help_text="A rollout for more docks than this needs a second person, and each that stays "
        "open. Empty: none does.",
    )
    starts_consistency = models.BooleanField(
        "automatic consistency",
        default=False,
        help_text="The system starts consistency upgrades by itself, inside the hours of this policy.",
    )
    # When it last did.
    consistency_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name = "rollout policy"
        verbose_name_plural = "rollout policies"

    def __str__(self) -> str:
        return f"Rollout policy of {self.organization}"
