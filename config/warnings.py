"""What is wrong with the installation itself, for the dashboard: in words, with what to do."""

import datetime as dt
from typing import NamedTuple
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.cache import cache
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.celery import app
from mqtt_bridge.models import BridgeSession

PATIENCE = 0.5  # s, for each service
REMEMBERED = 5  # s, so that a dashboard that many look at asks seldom
_LOCAL = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}  # noqa: S104  # read, not listened on


class Warning(NamedTuple):  # noqa: A001  # the word people know
    """What is wrong, and what to do about it."""

    text: str
    remedy: str


def found(now: dt.datetime) -> list[Warning]:
    """All there are at this moment; one query."""
    candidates = [_bridge(now), _services(), _licence(), *_addresses()]
    return [warning for warning in candidates if warning]


def _bridge(now: dt.datetime) -> Warning | None:
    if BridgeSession.objects.listening_since(now):
        return None
    return Warning(
        "No bridge is listening to the docks: nothing is heard, and no upgrade starts.",
        "Start python manage.py mqtt_bridge, and see that MQTT_URL is right.",
    )


def _services() -> Warning | None:
    """Redis and the worker behind it."""
    answer = cache.get("config.warnings.services")
    if answer is None:
        answer = _ask()
        cache.set("config.warnings.services", answer, REMEMBERED)
    if answer == "no redis":
        return Warning(
            "Redis does not answer: upgrades do not go on, and pages do not follow them.",
            "Start Redis, and see that REDIS_URL is right.",
        )
    if answer == "no worker":
        return Warning(
            "No worker answers: upgrades do not go on.",
            "Start celery -A config worker and celery -A config beat.",
        )
    return None


def _ask() -> str:
    """``ok``, or which of the two does not answer."""
    asked = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), retries=0),
    )
    try:
        with asked as client:
            client.ping()
        return "ok" if app.control.ping(timeout=PATIENCE, limit=1) else "no worker"
    except (redis.RedisError, OperationalError):
        return "no redis"


def _licence() -> Warning | None:
    if settings.DJI_APP_LICENSE or not settings.MQTT_ANSWER_REQUESTS:
        return None
    return Warning(
        "DJI_APP_LICENSE is not set: docks that are set up now will not bind.",
        "Set DJI_APP_ID, DJI_APP_KEY and DJI_APP_LICENSE to those of your Cloud API app.",
    )


def _addresses() -> list[Warning]:
    """Docks at another computer's broker cannot fetch packages from an address of this one."""
    if _is_local(settings.MQTT_URL) or not _is_local(settings.FIRMWARE_URL):
        return []
    return [
        Warning(
            f"FIRMWARE_URL is {settings.FIRMWARE_URL}: no dock can fetch a package from there.",
            "Set it to an address that the docks reach.",
        )
    ]


def _is_local(address: str) -> bool:
    return urlsplit(address).hostname in _LOCAL
