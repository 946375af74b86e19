"""Webhooks: news posted as signed JSON to the systems of an organization, until they have taken it."""

import asyncio
import contextlib
import datetime as dt
import functools
import hashlib
import hmac
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import httpx
from asgiref.sync import async_to_sync, sync_to_async
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from ota.models import News, Webhook, WebhookDelivery
from ota.notices import addresses, pauses

logger = logging.getLogger(__name__)

TIMEOUT = 8.0  # s, for all of a delivery: name, connection, answer
AT_ONCE = 20  # webhooks in one round, and deliveries to each
# A round ends after this, so that nobody's slow system holds a worker for long.
PATIENCE = dt.timedelta(seconds=10)
# How long a worker may hold a webhook; that of a killed one is free again after that.
CLAIMED = dt.timedelta(seconds=60)
# After a failure the others wait so long too: one attempt at a time finds out whether it answers.
REST = dt.timedelta(seconds=60)
KEPT = 200  # characters of an answer
_READ = 4 * KEPT  # bytes

_UNREADABLE = "its secret cannot be read, as SECRET_KEY has changed: make a new one"

Status = WebhookDelivery.Status


class Answer(NamedTuple):
    """What became of an attempt; without an error it was taken."""

    http_code: int | None = None
    error: str = ""
    text: str = ""


def deliver(now: dt.datetime, is_ending: Callable[[], bool]) -> None:
    """Sends what is due, in order for each webhook and to many webhooks at once.

    A worker that ``is_ending`` leaves the rest to the next round.
    """
    if Webhook.objects.filter(claimed_until__gt=now).exists():
        return  # somebody is at it; one worker is enough
    mine = _claim(now)
    if mine:
        async_to_sync(_deliver)(mine, is_ending)


def _claim(now: dt.datetime) -> list[Webhook]:
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    rested = Q(rests_until=None) | Q(rests_until__lte=now)
    due = WebhookDelivery.objects.filter(
        webhook=OuterRef("pk"), status=Status.PENDING, next_at__lte=now
    )
    found = Webhook.objects.filter(free, rested, Exists(due), is_active=True).select_related(
        "organization"
    )
    mine = []
    for webhook in found.order_by("pk")[:AT_ONCE]:
        webhook.claimed_until = now + CLAIMED
        if Webhook.objects.filter(free, pk=webhook.pk).update(claimed_until=now + CLAIMED):
            mine.append(webhook)
    return mine


async def _deliver(webhooks: Sequence[Webhook], is_ending: Callable[[], bool]) -> None:
    end = timezone.now() + PATIENCE

    def is_over() -> bool:
        return is_ending() or timezone.now() > end

    context = await asyncio.to_thread(ssl.create_default_context)
    async with asyncio.TaskGroup() as group:
        for webhook in webhooks:
            group.create_task(_deliver_to(webhook, context, is_over))


async def _deliver_to(
    webhook: Webhook, context: ssl.SSLContext, is_over: Callable[[], bool]
) -> None:
    """Sends one after the other until one fails; the rest waits then."""
    rests_until = None
    for delivery in await sync_to_async(_due)(webhook):
        answer = await post(webhook, delivery, context)
        await sync_to_async(_record)(delivery, answer, timezone.now())
        if answer.error:
            rests_until = timezone.now() + REST
        if answer.error or is_over():
            break
    mine = Webhook.objects.filter(pk=webhook.pk, claimed_until=webhook.claimed_until)
    await mine.aupdate(claimed_until=None, rests_until=rests_until)


def _due(webhook: Webhook) -> list[WebhookDelivery]:
    waiting = WebhookDelivery.objects.filter(webhook=webhook, status=Status.PENDING)
    due = waiting.filter(next_at__lte=timezone.now()).order_by("next_at", "news_id")
    return list(
        due.select_related("news__rollout", "news__task__gateway", "news__package")[:AT_ONCE]
    )


def _record(delivery: WebhookDelivery, answer: Answer, now: dt.datetime) -> None:
    attempts = delivery.attempts + 1
    pause = pauses.after(attempts) if answer.error else None
    status = Status.PENDING if pause else Status.FAILED if answer.error else Status.DELIVERED
    if status == Status.FAILED:
        logger.error("delivery %s is given up: %s", delivery.pk, answer.error)
    WebhookDelivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts).update(
        status=status,
        attempts=attempts,
        tried_at=now,
        next_at=now + pause if pause else None,
        http_code=answer.http_code,
        error=answer.error[:500],
        response=answer.text,
    )


async def post(webhook: Webhook, delivery: WebhookDelivery, context: ssl.SSLContext) -> Answer:
    """One attempt; whatever goes wrong with it is told in the answer."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await _post(webhook, delivery, context)
    except TimeoutError:
        return Answer(error=f"no answer within {TIMEOUT:g} s")
    except (addresses.NotAllowed, httpx.InvalidURL, UnicodeError) as error:
        return Answer(error=str(error))
    except (OSError, httpx.HTTPError) as error:
        return Answer(
            error=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        )
    except Exception as error:  # nobody else's deliveries may end with it
        logger.exception("delivery %s could not be tried", delivery.pk)
        return Answer(error=type(error).__name__)


async def _post(webhook: Webhook, delivery: WebhookDelivery, context: ssl.SSLContext) -> Answer:
    if not webhook.secret:
        return Answer(error=_UNREADABLE)
    addresses.check(webhook.url)
    url = httpx.URL(webhook.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await addresses.resolve(url.host, port)
    body = json.dumps(payload(webhook, delivery), separators=(",", ":")).encode()
    headers = _headers(webhook, delivery, body) | {"Host": url.netloc.decode()}
    client = httpx.AsyncClient(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(TIMEOUT, connect=TIMEOUT / 2),
    )
    async with client:
        send = functools.partial(_send, client, url, body, headers)
        async with contextlib.aclosing(await _first(send, found)) as response:
            return _judged(response, await _start_of(response))


async def _send(
    client: httpx.AsyncClient, url: httpx.URL, body: bytes, headers: dict[str, str], address: str
) -> httpx.Response:
    """To the address that was looked at, whatever the name leads to by now; the certificate is the name's."""
    there = url.copy_with(host=address)
    names = {"sni_hostname": url.host}
    request = client.build_request("POST", there, content=body, headers=headers, extensions=names)
    return await client.send(request, stream=True)


async def _first(
    send: Callable[[str], Awaitable[httpx.Response]], found: Sequence[str]
) -> httpx.Response:
    """The answer of the first address that lets us in."""
    for address in found[:-1]:
        with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await send(address)
    return await send(found[-1])


async def _start_of(response: httpx.Response) -> str:
    """The first characters of an answer, however long it is; as sent, since a packed one may grow without end."""
    raw = b""
    async for part in response.aiter_raw():
        raw += part
        if len(raw) >= _READ:
            break
    text = "".join(c if c.isprintable() else " " for c in raw.decode(errors="replace"))
    return " ".join(text.split())[:KEPT]


def _judged(response: httpx.Response, text: str) -> Answer:
    code = response.status_code
    if response.is_success:
        return Answer(code, "", text)
    what = "; redirects are not followed" if 300 <= code < 400 else ""
    return Answer(
        code, f"the receiver answered {code} {response.reason_phrase}".rstrip() + what, text
    )


def _headers(webhook: Webhook, delivery: WebhookDelivery, body: bytes) -> dict[str, str]:
    timestamp = str(int(timezone.now().timestamp()))
    return {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "fleet-ota",
        "X-Fleet-Event": delivery.news.kind,
        "X-Fleet-Delivery": str(delivery.pk),
        "X-Fleet-Timestamp": timestamp,
        "X-Fleet-Signature": f"sha256={signature(webhook.secret, timestamp, body)}",
    }


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over the timestamp, a dot and the body; hexadecimal."""
    signed = timestamp.encode() + b"." + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def payload(webhook: Webhook, delivery: WebhookDelivery) -> dict[str, Any]:
    """What a webhook gets; ``docs/interfaces.md`` promises its fields."""
    news = delivery.news
    return {
        "id": str(delivery.pk),
        "event": news.kind,
        "at": news.at.isoformat(),
        "organization": webhook.organization.identifier,
        "title": news.title,
        "text": delivery.text,
        "url": news.url,
        "rollout": {"id": news.rollout_id, "name": news.rollout.name} if news.rollout else None,
        "task": _task(news),
        "package": _package(news),
    }


def _task(news: News) -> dict[str, Any] | None:
    task = news.task
    if task is None:
        return None
    return {
        "id": task.pk,
        "gateway_sn": task.gateway.sn,
        "result": task.result,
        "advice": task.advice,
    }


def _package(news: News) -> dict[str, Any] | None:
    package = news.package
    if package is None:
        return None
    return {"id": package.pk, "file_name": package.file_name, "version": package.version}
