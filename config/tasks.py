"""What the clock does for the console."""

from celery import shared_task
from django.core.management import call_command


@shared_task
def forget_sessions() -> None:
    """Removes the sessions of people who were logged in and are not any more."""
    call_command("clearsessions")
