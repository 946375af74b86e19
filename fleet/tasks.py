"""What the clock does for the fleet."""

from celery import shared_task
from django.utils import timezone

from fleet import telemetry


@shared_task
def mark_silent() -> None:
    """Marks devices offline that were silent for too long."""
    telemetry.mark_silent(timezone.now())
