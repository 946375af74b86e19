"""What is kept of a task's progress reports once they are old."""

from django.db import models

from ota.models.upgrades import UpgradeTask


class FoldedReports(models.Model):
    """A task's old progress reports with one status and result, added up; their lines are gone."""

    task = models.ForeignKey(UpgradeTask, models.CASCADE, related_name="folded", db_index=False)
    device_status = models.CharField(max_length=64, blank=True)
    result = models.IntegerField(help_text="0 also where the dock told none.")
    reports = models.IntegerField()
    late = models.IntegerField(help_text="How many of them changed nothing.")
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering = ["first_at", "pk"]
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["task", "device_status", "result"], name="folded_once_in_a_task"
            )
        ]

    def __str__(self) -> str:
        return f"{self.reports} reports of {self.task}"
