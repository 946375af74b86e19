"""What is known of the clocks of the machines on which the ticks run."""

from django.db import models


class Clock(models.Model):
    """One machine's wall clock since its start, by how far it is ahead of the time that only counts up."""

    machine = models.CharField(max_length=200, unique=True)
    offset = models.FloatField(help_text="Seconds.")
    stepped_at = models.DateTimeField(null=True, help_text="When it was last seen to jump.")
    step = models.FloatField(default=0, help_text="By how many seconds it jumped then.")

    def __str__(self) -> str:
        return self.machine
