"""Teaches Django the lookup ``among``, and prepares each new connection."""

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class DatabaseConfig(AppConfig):
    name = "database"

    def ready(self) -> None:
        from database import among, reading  # noqa: F401 (among registers its lookup)

        connection_created.connect(reading.prepare)
