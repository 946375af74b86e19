"""How log lines look: aligned text for people, or one JSON object a line; always on stderr."""

import logging
from http import HTTPStatus
from typing import Any


def is_no_tick(record: logging.LogRecord) -> bool:
    """Keeps the clock from filling the log: it ticks every second."""
    return "Sending due task" not in record.getMessage()


def without_refusals_traceback(record: logging.LogRecord) -> bool:
    """A lack of permission is no fault: its line tells all, and the traceback only our own calls."""
    if getattr(record, "status_code", None) == HTTPStatus.FORBIDDEN:
        record.exc_info = None
    return True


def _is_access_logged() -> bool:
    """Whether uvicorn, which has set up its logs before us, was not told ``--no-access-log``."""
    access = logging.getLogger("uvicorn.access")
    return access.propagate or bool(access.handlers)


def logging_config(log_format: str) -> dict[str, Any]:
    """Django's LOGGING; stdout stays free for what commands answer."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
            },
        },
        "filters": {
            "no_ticks": {
                "()": "django.utils.log.CallbackFilter",
                "callback": is_no_tick,
            },
            "short_refusals": {
                "()": "django.utils.log.CallbackFilter",
                "callback": without_refusals_traceback,
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": log_format,
                "filters": ["no_ticks"],
            }
        },
        "root": {"handlers": ["stderr"], "level": "INFO"},
        # Handlers of their own would say things twice, or in another format.
        "loggers": {
            "django": {"handlers": [], "propagate": True},
            "django.request": {"filters": ["short_refusals"]},
            "uvicorn": {"handlers": [], "propagate": True},
            "uvicorn.access": {"handlers": [], "propagate": _is_access_logged()},
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            # It logs addresses whole, signed ones too.
            "httpx": {"level": "WARNING"},
        },
    }
