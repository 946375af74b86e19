"""Whether somebody waits for what another transaction holds."""

from django.db import connection


def someone_waits() -> bool:
    """For a lock of this database; SQLite lets everybody wait before they read."""
    if connection.vendor == "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])
