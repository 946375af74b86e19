"""The Celery application: workers issue upgrades, beat is the clock."""

import os

from celery import Celery
from celery.signals import celeryd_init, setup_logging, worker_before_create_process

from mqtt_bridge import garbage

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Celery would run the checks, throw away what they find, and keep the console's pages that they load.
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")

app = Celery("fleet-ota")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Django has set up logging already; a receiver here keeps Celery from doing it again."""


@celeryd_init.connect
def keep_workers_apart(**_: object) -> None:
    """Ours need not know of each other: the database is the queue.

    While Redis is away, closing what they talk over can fail, and then a worker does not come back
    when Redis does.
    """
    from celery.worker.consumer.gossip import Gossip  # workers alone need it
    from celery.worker.consumer.mingle import Mingle

    Gossip.compatible_transports = Mingle.compatible_transports = set()


@worker_before_create_process.connect
def leave_startup_uncollected(**_: object) -> None:
    garbage.leave_startup()
