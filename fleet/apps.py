from django.apps import AppConfig
from django.db.models.signals import post_migrate


class FleetConfig(AppConfig):
    name = "fleet"
    verbose_name = "Fleet"

    def ready(self) -> None:
        from fleet import catalogue  # models are there only now

        post_migrate.connect(catalogue.load_after_migration, sender=self)
