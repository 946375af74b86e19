"""Firmware packages and the product codes inside them."""

import functools
import uuid
from typing import Any, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models

from fleet import versions
from fleet.models import DeviceModel
from ota.states import PackageState

MOST_NOTES = 50_000


def validate_version(text: str) -> None:
    try:
        versions.canonical(text)
    except versions.InvalidVersion as error:
        raise ValidationError(str(error)) from error


class ProductCode(models.Model):
    """Which models a product code inside a package's signature file stands for."""

    code = models.CharField(
        max_length=40, unique=True, help_text="As in the package's .cfg.sig entry."
    )
    models = models.ManyToManyField(DeviceModel, related_name="product_codes")

    class Meta:
        ordering = ["code"]

    def __str__(self) -> str:
        return self.code


class FirmwarePackageQuerySet(models.QuerySet["FirmwarePackage"]):
    def available(self) -> Self:
        return self.filter(state=PackageState.AVAILABLE)

    def damaged(self) -> Self:
        """Something is wrong with them by now, after they had been right."""
        was_right = models.Q(verified_at__isnull=False) | models.Q(targets__isnull=False)
        found = self.filter(was_right, state=PackageState.DRAFT).exclude(problem="")
        return found.distinct()


class FirmwarePackage(models.Model):
    """One zip of the vendor: what it is for, and what a dock needs to know to fetch it."""

    State = PackageState

    file = models.FileField(max_length=200)
    file_name = models.CharField(
        max_length=200, help_text="The vendor's name of the zip; sent to the dock."
    )
    version = models.CharField(
        max_length=64, validators=[validate_version], help_text=versions.FORM
    )
    version_number = models.BigIntegerField(editable=False)
    product_code = models.CharField(max_length=40, blank=True)
    released_on = models.DateField("release date", null=True, blank=True)
    notes = models.TextField(
        "release notes",
        blank=True,
        help_text=f"Markdown, at most {MOST_NOTES} characters.",
    )
    minimum_version = models.CharField(
        "needs first",
        max_length=64,
        blank=True,
        validators=[validate_version],
        help_text="Devices with an older version than this have to get it first. Empty: any may go.",
    )
    minimum_number = models.BigIntegerField(null=True, editable=False)
    size = models.BigIntegerField(help_text="Bytes.")
    # Unknown until a worker has read a file that came in without passing through us.
    md5 = models.CharField("MD5", max_length=32, blank=True)
    sha256 = models.CharField("SHA-256", max_length=64, unique=True, null=True)  # noqa: DJ001
    state = models.CharField(
        max_length=10, choices=PackageState, default=PackageState.DRAFT, db_index=True
    )
    opens_as_draft = models.BooleanField(
        "keep as a draft", default=False, help_text="A draft is not offered for upgrades yet."
    )
    problem = models.CharField(
        max_length=500, blank=True, help_text="Why it cannot be made available."
    )
    # What the storage said of the file when its bytes were last known to be right.
    stamp = models.CharField(max_length=100, blank=True, editable=False)
    verified_at = models.DateTimeField(
        "bytes checked", null=True, blank=True, help_text="When all bytes were last read and right."
    )
    checked_until = models.DateTimeField(
        null=True, editable=False, help_text="A worker reads its bytes until then, unless it died."
    )
    purged_at = models.DateTimeField("file purged", null=True, blank=True)
    created_at = models.DateTimeField("added", auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, editable=False
    )
    # Last, because from here on ``models`` is this field.
    models = models.ManyToManyField(DeviceModel, related_name="packages")

    objects = FirmwarePackageQuerySet.as_manager()

    class Meta:
        ordering = ["-version_number", "file_name"]
        verbose_name = "firmware package"

    def __str__(self) -> str:
        return f"{self.file_name} ({self.version})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the version in canonical form beside the number that sorts it."""
        self.version = versions.canonical(self.version)
        self.version_number = versions.number(self.version) or 0
        if self.minimum_version:
            self.minimum_version = versions.canonical(self.minimum_version)
        self.minimum_number = versions.number(self.minimum_version)
        super().save(*args, **kwargs)

    @functools.cached_property
    def model_ids(self) -> frozenset[int]:
        """The models that it fits, as they were when this was asked first."""
        return frozenset(model.pk for model in self.models.all())


class PackageEvent(models.Model):
    """One line of a package's history: who changed what; nobody where the system did."""

    package = models.ForeignKey(FirmwarePackage, models.CASCADE, related_name="events")
    at = models.DateTimeField()
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    text = models.CharField(max_length=500)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.text


class Upload(models.Model):
    """A package on its way in, which may be interrupted and goes on where it stopped."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    file_name = models.CharField(max_length=300)
    size = models.BigIntegerField(help_text="Bytes, as announced.")
    offset = models.BigIntegerField(default=0, help_text="Bytes that are stored.")
    # The same file chosen again by the same person is recognized by it.
    fingerprint = models.CharField(max_length=200, db_index=True)
    key = models.CharField(max_length=200, help_text="The file's name in the storage.")
    multipart_id = models.CharField(max_length=500, blank=True, help_text="The bucket's.")
    # Known once all is here, if one process saw all of it.
    md5 = models.CharField(max_length=32, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return self.file_name

    @property
    def is_complete(self) -> bool:
        return self.offset == self.size
