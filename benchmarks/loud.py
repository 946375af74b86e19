"""The product's settings, with a line in the log for each Celery task that has ended."""

from config.settings import *  # noqa: F403
from config.settings import LOGGING

LOGGING["loggers"]["celery.app.trace"]["level"] = "INFO"
