"""What docks have fetched, as far as it went through us."""

from django.db import models

from ota.models.packages import FirmwarePackage
from ota.models.upgrades import UpgradeTask


class Download(models.Model):
    """A task's requests for one package, added up."""

    task = models.ForeignKey(UpgradeTask, models.CASCADE, related_name="downloads")
    package = models.ForeignKey(FirmwarePackage, models.CASCADE, related_name="downloads")
    requests = models.IntegerField(default=0, help_text="How often the dock asked for bytes.")
    bytes_served = models.BigIntegerField(default=0)
    last_offset = models.BigIntegerField(default=0, help_text="Where the last answer has come to.")
    rate = models.BigIntegerField(null=True, help_text="Bytes a second, of late.")
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["task", "package"], name="one_download_of_a_package")
        ]

    def __str__(self) -> str:
        return f"{self.package} for {self.task}"
