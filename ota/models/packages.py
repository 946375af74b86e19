"""Firmware packages and the product codes inside them."""

from typing import Any, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models

from fleet import versions
from fleet.models import DeviceModel
from ota.states import PackageState


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
    notes = models.TextField("release notes", blank=True)
    size = models.BigIntegerField(help_text="Bytes.")
    md5 = models.CharField("MD5", max_length=32)
    sha256 = models.CharField("SHA-256", max_length=64, unique=True)
    state = models.CharField(
        max_length=10, choices=PackageState, default=PackageState.DRAFT, db_index=True
    )
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
        super().save(*args, **kwargs)
