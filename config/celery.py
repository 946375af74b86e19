"""The Celery application: workers issue upgrades, beat is the clock."""

import os

from celery import Celery
from celery.signals import setup_logging, worker_before_create_process

from mqtt_bridge import garbage

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("fleet-ota")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Django has set up logging already; a receiver here keeps Celery from doing it again."""


@worker_before_create_process.connect
def leave_startup_uncollected(**_: object) -> None:
    garbage.leave_startup()
