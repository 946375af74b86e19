"""Teaches Django the lookups ``among`` and ``in``, and prepares each new connection."""

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class DatabaseConfig(AppConfig):
    name = "database"

    def ready(self) -> None:
        from database import among, reading, within  # noqa: F401 (two register their lookups)

        connection_created.connect(reading.prepare)
