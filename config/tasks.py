"""What the clock does for the console."""

from celery import shared_task
from django.core.management import call_command
from django.db import connection


@shared_task
def forget_sessions() -> None:
    """Removes the sessions of people who were logged in and are not any more."""
    call_command("clearsessions")


@shared_task
def look_at_rows() -> None:
    """Has SQLite look at a sample of each table, or it takes the wrong index; PostgreSQL does so by itself."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA analysis_limit = 1000")
            cursor.execute("ANALYZE")
