"""What is wrong with the installation itself, for the dashboard: in words, with what to do."""

import datetime as dt
from typing import NamedTuple
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.cache import cache
from django.db.models import Exists, OuterRef, Subquery
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.celery import app
from fleet import binding
from mqtt_bridge.models import BridgeSession
from ota import storage
from ota.models import FirmwarePackage, PackageEvent, Rollout, RolloutEvent
from ota.states import PackageState

MOST = 3  # of one kind
READ_WITHIN = dt.timedelta(hours=1)  # 4 GB take a minute, from a bucket some more
PATIENCE = 0.5  # s, for each service
REMEMBERED = 5  # s, so that a dashboard that many look at asks seldom
_LOCAL = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}  # noqa: S104  # read, not listened on


class Warning(NamedTuple):  # noqa: A001  # the word people know
    """What is wrong, and what to do about it."""

    text: str
    remedy: str


def found(now: dt.datetime) -> list[Warning]:
    """All there are at this moment; two queries at most."""
    candidates = [_bridge(now), _services(), _licence(), *_addresses()]
    return [warning for warning in candidates if warning]


def of_library(now: dt.datetime) -> list[Warning]:
    """What is wrong with packages; two queries."""
    return [*_damaged(), *_unread(now)]


def of_rollouts() -> list[Warning]:
    """Which rollouts the system has paused, and why; what people pause they know. One query."""
    kinds = [RolloutEvent.Kind.PAUSED, RolloutEvent.Kind.STOPPED]
    pauses = RolloutEvent.objects.filter(rollout=OuterRef("pk"), kind__in=kinds).order_by("-pk")
    paused = Rollout.objects.filter(status=Rollout.Status.PAUSED).order_by("pk")
    last = paused.annotate(last=Subquery(pauses.values("kind")[:1]))
    by_us = last.filter(last=RolloutEvent.Kind.STOPPED)[: MOST + 1]
    found = [
        Warning(
            f"Rollout {rollout} is paused: {rollout.pause_reason}",
            "Resume it once that is put right, or cancel it.",
        )
        for rollout in by_us
    ]
    return _shortened(found, "rollouts are paused", "Look at the list of rollouts.")


def _bridge(now: dt.datetime) -> Warning | None:
    if not BridgeSession.objects.listening_since(now):
        return Warning(
            "No bridge is listening to the docks: nothing is heard, and no upgrade starts.",
            "Start python manage.py mqtt_bridge, and see that MQTT_URL is right.",
        )
    if not (away := BridgeSession.objects.away(now).first()):
        return None
    return Warning(
        f"Bridge {away} is away, and some of what docks say waits for it: no upgrade starts, "
        "and no limit of time counts.",
        "Start it again. If it is gone for good, clear its session at the broker and delete it "
        "in the list of bridges.",
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
    missing = binding.missing_of_app()
    if not missing or not settings.MQTT_ANSWER_REQUESTS:
        return None
    return Warning(
        f"{missing} not set: docks that are set up now will not bind.",
        "Set DJI_APP_ID, DJI_APP_KEY and DJI_APP_LICENSE to those of your Cloud API app.",
    )


def _addresses() -> list[Warning]:
    """Docks at another computer's broker cannot fetch packages from an address of this one."""
    is_ours = storage.is_folder() or settings.FIRMWARE_S3_REDIRECT  # else docks go to the bucket
    if _is_local(settings.MQTT_URL) or not _is_local(settings.FIRMWARE_URL) or not is_ours:
        return []
    return [
        Warning(
            f"FIRMWARE_URL is {settings.FIRMWARE_URL}: no dock can fetch a package from there.",
            "Set it to an address that the docks reach.",
        )
    ]


def _damaged() -> list[Warning]:
    damaged = FirmwarePackage.objects.damaged().order_by("pk")[: MOST + 1]
    found = [Warning(f"Package {p} is damaged.", p.problem) for p in damaged]
    return _shortened(found, "packages are damaged", "Look at the drafts in the list of packages.")


def _shortened(found: list[Warning], what: str, remedy: str) -> list[Warning]:
    more = Warning(f"More than {MOST} {what}.", remedy)
    return [*found[:MOST], more] if len(found) > MOST else found


def _unread(now: dt.datetime) -> list[Warning]:
    """Packages that wait for a check, and nothing has been said of them for long."""
    lately = PackageEvent.objects.filter(package=OuterRef("pk"), at__gte=now - READ_WITHIN)
    checking = FirmwarePackage.objects.filter(state=PackageState.CHECKING)
    return [
        Warning(
            f"Package {package} has been waiting for its check for more than an hour.",
            "See that a worker and beat run, and what the history of the package says.",
        )
        for package in checking.exclude(Exists(lately)).order_by("pk")[:1]
    ]


def _is_local(address: str) -> bool:
    return urlsplit(address).hostname in _LOCAL
