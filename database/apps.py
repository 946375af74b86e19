"""Teaches Django the lookups ``among`` and ``in``."""

from django.apps import AppConfig


class DatabaseConfig(AppConfig):
    name = "database"

    def ready(self) -> None:
        from database import among, within  # noqa: F401 (they register their lookups)
