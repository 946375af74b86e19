"""Whether the process serves, whether what it needs answers, and the figures for Prometheus.

All three are open to everybody: they tell no addresses, no names and no secrets. Close them in
the reverse proxy where the numbers themselves are nobody's business.
"""

import logging
import threading
import time
from collections.abc import Callable

import prometheus_client
import redis
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from config import figures
from mqtt_bridge.client import Probe

logger = logging.getLogger(__name__)

PATIENCE = 2.0  # s for each part; all are asked at once
_SLACK = 0.5  # s, so that a part's own time runs out first and its reason is told


@csrf_exempt  # or a POST would hear of a form, and not of its method
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


@csrf_exempt
@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """``{"database": "ok", "redis": "ok", "mqtt": "ok"}``, or what else with the status 503."""
    answers = _ask_all(
        {"database": _ask_database, "redis": _ask_redis, "mqtt": lambda: Probe().ask(PATIENCE)}
    )
    is_ready = all(answer == "ok" for answer in answers.values())
    return JsonResponse(answers, status=200 if is_ready else 503)


@csrf_exempt
@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    text = prometheus_client.generate_latest(figures.registry)
    return HttpResponse(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _ask_all(questions: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Each part's answer. One that hangs is left to its thread, which ends with the process."""
    answers = dict.fromkeys(questions, "no answer")
    asking = [
        threading.Thread(target=_ask, args=(name, question, answers), daemon=True)
        for name, question in questions.items()
    ]
    for thread in asking:
        thread.start()
    until = time.monotonic() + PATIENCE + _SLACK
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(answers)


def _ask(name: str, question: Callable[[], object], answers: dict[str, str]) -> None:
    try:
        question()
    except Exception as error:  # noqa: BLE001  # whatever it is, the part does not answer
        # The reason is for the log: it may name addresses and users.
        logger.warning("%s does not answer: %s", name, error)
        answers[name] = "no answer"
    else:
        answers[name] = "ok"


def _ask_database() -> None:
    """Over a connection of its own: an open one may not notice that the server is gone."""
    asked = connection.copy()
    if asked.vendor == "postgresql":
        asked.settings_dict["OPTIONS"] = {
            **asked.settings_dict["OPTIONS"],
            "connect_timeout": int(PATIENCE),
        }
    try:
        with asked.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        asked.close()


def _ask_redis() -> None:
    with redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
    ) as client:
        client.ping()
