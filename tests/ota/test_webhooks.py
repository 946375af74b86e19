"""Webhooks: signed, sent until they are taken, and never to where they must not go."""

import datetime as dt
import hashlib
import hmac
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from demo import ports
from ota import notices
from ota.models import News, Rollout, Webhook, WebhookDelivery
from ota.notices import addresses, pauses, webhooks
from ota.states import TaskStatus
from tests.make import make_dock, make_organization, make_package, make_rollout, make_task
from tests.make import make_webhook as make_hook
from tests.receivers import Receiver

pytestmark = pytest.mark.django_db

MINUTE = dt.timedelta(minutes=1)
Status = WebhookDelivery.Status


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.end()


@pytest.fixture(autouse=True)
def private_addresses(settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.PUBLIC_URL = "https://fleet.example.org"


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


@pytest.fixture
def hook(receiver: Receiver) -> Webhook:
    return make_hook(make_organization(identifier="acme"), url=receiver.url)


@pytest.fixture
def rollout() -> Rollout:
    return make_rollout(name="Spring")


def due(hook: Webhook, rollout: Rollout, now: dt.datetime, **fields: Any) -> WebhookDelivery:
    """Some news on its way."""
    values = {"kind": "stopped", "title": "Spring has paused by itself", "text": "3 failed"}
    news = News.objects.create(at=now, rollout=rollout, told_at=now, **values | fields)
    fields = {"text": news.text, "created_at": now, "next_at": now}
    return WebhookDelivery.objects.create(webhook=hook, news=news, **fields)


def a_round(now: dt.datetime, *, is_ending: bool = False) -> None:
    webhooks.deliver(now, lambda: is_ending)


def deliver(delivery: WebhookDelivery, now: dt.datetime | None = None) -> WebhookDelivery:
    a_round(now or timezone.now())
    delivery.refresh_from_db()
    return delivery


# What is sent


def test_a_receiver_can_check_who_sent_it(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    delivery = deliver(due(hook, rollout, now))
    ((path, headers, body),) = receiver.got
    timestamp = headers["X-Fleet-Timestamp"]
    # As the documentation tells receivers to do it.
    expected = hmac.new(hook.secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    assert headers["X-Fleet-Signature"] == f"sha256={expected.hexdigest()}"
    assert abs(int(timestamp) - now.timestamp()) < 60
    assert (headers["X-Fleet-Event"], headers["X-Fleet-Delivery"]) == ("stopped", str(delivery.pk))
    assert (path, headers["Content-Type"]) == ("/hook", "application/json")
    assert headers["Host"] == receiver.url.split("/")[2]


def test_a_copy_of_the_database_tells_no_secret(hook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM ota_webhook")
        (stored,) = cursor.fetchone()
    assert hook.secret not in stored
    assert Webhook.objects.get().secret == hook.secret


def test_under_another_secret_key_nothing_is_sent_and_the_log_says_why(
    hook: Webhook, rollout: Rollout, receiver: Receiver, settings: Settings, now: dt.datetime
) -> None:
    settings.SECRET_KEY = "another one, from a new installation"
    delivery = deliver(due(hook, rollout, now))
    assert "SECRET_KEY has changed: make a new one" in delivery.error
    assert not receiver.got


def test_the_body_tells_what_happened_and_to_which_rollout(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    delivery = deliver(due(hook, rollout, now))
    assert json.loads(receiver.got[0][2]) == {
        "id": str(delivery.pk),
        "event": "stopped",
        "at": now.isoformat(),
        "organization": "acme",
        "title": "Spring has paused by itself",
        "text": "3 failed",
        "url": f"https://fleet.example.org/admin/ota/rollout/{rollout.pk}/change/",
        "rollout": {"id": rollout.pk, "name": "Spring"},
        "task": None,
        "package": None,
    }


def test_the_body_names_the_dock_that_needs_somebody(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    task = make_task(make_dock(sn="7CTDK1"), status=TaskStatus.FAILED, result=312023)
    deliver(due(hook, rollout, now, kind="on_site", task=task))
    told = json.loads(receiver.got[0][2])["task"]
    assert (told["id"], told["gateway_sn"], told["result"]) == (task.pk, "7CTDK1", 312023)
    assert "rods" in told["advice"]


def test_the_body_names_the_package_that_is_damaged(
    hook: Webhook, receiver: Receiver, now: dt.datetime
) -> None:
    package = make_package("10.01.3205")
    notices.damaged(package, "its MD5 is another one", now)
    notices.tell(now)
    a_round(now)
    told = json.loads(receiver.got[0][2])
    assert told["package"]["version"] == "10.01.3205"
    assert told["rollout"] is None


def test_what_was_taken_is_not_sent_again(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    delivery = deliver(due(hook, rollout, now))
    deliver(delivery, now + dt.timedelta(days=1))
    assert (delivery.status, delivery.http_code) == (Status.DELIVERED, 200)
    assert (delivery.response, delivery.attempts, len(receiver.got)) == ("thanks", 1, 1)


def test_news_goes_out_in_its_order(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    wanted = [due(hook, rollout, now, title=f"No. {number}") for number in range(5)]
    a_round(now)
    assert [headers["X-Fleet-Delivery"] for _, headers, _ in receiver.got] == [
        str(delivery.pk) for delivery in wanted
    ]


# Failures


def test_a_receiver_that_fails_gets_it_again_after_longer_and_longer_pauses(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code = 503
    delivery = due(hook, rollout, now)
    seen = []
    for _ in range(pauses.MOST):
        deliver(delivery)
        assert delivery.next_at
        assert delivery.tried_at
        seen.append(int((delivery.next_at - delivery.tried_at) / MINUTE))
        make_due(delivery)
    assert seen == [1, 5, 30, 120, 360, 720]
    assert delivery.error == "the receiver answered 503 Service Unavailable"
    receiver.code = 204
    assert deliver(delivery).status == Status.DELIVERED


def make_due(delivery: WebhookDelivery) -> None:
    """The pause is over."""
    WebhookDelivery.objects.filter(pk=delivery.pk).update(next_at=timezone.now())
    Webhook.objects.update(rests_until=None)


def test_it_is_given_up_after_the_last_attempt(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code = 500
    delivery = due(hook, rollout, now)
    WebhookDelivery.objects.update(attempts=pauses.MOST)
    deliver(delivery)
    assert (delivery.status, delivery.next_at) == (Status.FAILED, None)


def test_after_a_failure_the_others_wait_so_that_one_at_a_time_finds_out(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code = 500
    for _ in range(10):
        due(hook, rollout, now)
    for _ in range(5):
        a_round(timezone.now())
    assert len(receiver.got) == 1


def test_a_delivery_that_is_refused_does_not_hold_back_the_others_for_long(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code = 400
    refused = deliver(due(hook, rollout, now))
    other = due(hook, rollout, now)
    receiver.code = 200
    Webhook.objects.update(rests_until=now)
    assert deliver(other).status == Status.DELIVERED
    refused.refresh_from_db()
    assert refused.status == Status.PENDING


def test_a_system_that_is_not_there_is_named_in_words(rollout: Rollout, now: dt.datetime) -> None:
    hook = make_hook(make_organization(), url=f"http://{ports.HOST}:{ports.free()}/")
    delivery = deliver(due(hook, rollout, now))
    assert delivery.error.startswith("ConnectError")
    assert delivery.http_code is None


def test_a_name_that_nobody_knows_is_named_in_words(rollout: Rollout, now: dt.datetime) -> None:
    hook = make_hook(make_organization(), url="http://nowhere.invalid/")
    assert deliver(due(hook, rollout, now)).error


@pytest.mark.parametrize("fault", [UnicodeError("label empty or too long"), RuntimeError("odd")])
def test_a_fault_of_one_delivery_ends_nobody_elses(
    hook: Webhook,
    rollout: Rollout,
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    bad = make_hook(make_organization(), url="https://odd.example.org/")
    wrong, right = due(bad, rollout, now), due(hook, rollout, now)
    real = addresses.resolve

    async def resolve(host: str, port: int) -> list[str]:
        if host == "odd.example.org":
            raise fault
        return await real(host, port)

    monkeypatch.setattr(addresses, "resolve", resolve)
    assert deliver(right).status == Status.DELIVERED
    wrong.refresh_from_db()
    assert (wrong.status, wrong.attempts) == (Status.PENDING, 1)
    assert wrong.error in {"label empty or too long", "RuntimeError"}
    assert not Webhook.objects.filter(claimed_until__isnull=False).exists()


def test_a_receiver_that_never_answers_is_left_after_a_while(
    hook: Webhook,
    rollout: Rollout,
    receiver: Receiver,
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.3)
    receiver.hold.clear()
    delivery = deliver(due(hook, rollout, now))
    assert "no answer within" in delivery.error or "Timeout" in delivery.error


def test_a_worker_that_is_asked_to_end_leaves_the_rest_to_the_next_round(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    for _ in range(3):
        due(hook, rollout, now)
    a_round(now, is_ending=True)
    assert len(receiver.got) == 1
    a_round(now)
    assert len(receiver.got) == 3


def test_a_slow_one_holds_back_no_other(
    hook: Webhook,
    rollout: Rollout,
    receiver: Receiver,
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT", 1.0)
    receiver.hold.clear()
    due(hook, rollout, now)
    quick = Receiver()
    try:
        other = due(make_hook(make_organization(), url=quick.url), rollout, now)
        assert deliver(other).status == Status.DELIVERED
    finally:
        quick.end()


def test_an_endless_answer_is_read_only_at_its_start(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.body = b"\x00\x1b[31m" + b"x" * 5_000_000
    delivery = deliver(due(hook, rollout, now))
    assert delivery.status == Status.DELIVERED
    assert delivery.response.startswith("[31mxxx")
    assert len(delivery.response) == webhooks.KEPT


def test_a_webhook_that_a_killed_worker_held_is_free_again_after_a_minute(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    delivery = due(hook, rollout, now)
    Webhook.objects.update(claimed_until=now + webhooks.CLAIMED)
    assert deliver(delivery, now).status == Status.PENDING
    assert deliver(delivery, now + webhooks.CLAIMED).status == Status.DELIVERED
    hook.refresh_from_db()
    assert hook.claimed_until is None


# Where it must not go


def test_a_redirect_is_not_followed(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code, receiver.headers = 302, {"Location": "/elsewhere"}
    delivery = deliver(due(hook, rollout, now))
    assert [path for path, _, _ in receiver.got] == ["/hook"]
    assert delivery.error == "the receiver answered 302 Found; redirects are not followed"


PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255"),  # noqa: S104  # not bound to
    *("::1", "::", "fe80::1", "fd00::1", "fec0::1", "ff02::1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::a00:1", "2002:a00:1::1", "2001:db8::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused(address: str, settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    assert not addresses.is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_taken(address: str, settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    assert addresses.is_allowed(address)


def test_a_name_that_leads_into_the_own_network_is_not_called(
    rollout: Rollout, now: dt.datetime, settings: Settings
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    hook = make_hook(make_organization(), url="https://localhost:1/")
    error = deliver(due(hook, rollout, now)).error
    assert error.startswith("localhost has no public address (")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://user:password@hooks.example.org/",
        "ftp://hooks.example.org/",
        "https:///path",
        "hooks.example.org",
        "https://hooks.example.org:99999/",
        "https://[::1/",
        "https://hooks..example.org/",
        f"https://{'a' * 64}.example.org/",
        "https://xn--a/",
    ],
)
def test_an_address_that_cannot_be_right_is_refused_at_once(url: str, settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(addresses.NotAllowed):
        addresses.check(url)


def test_a_webhook_from_when_private_addresses_were_allowed_is_not_called_any_more(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime, settings: Settings
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    assert "Only https://" in deliver(due(hook, rollout, now)).error
    assert not receiver.got


def test_the_name_is_looked_up_once_so_that_it_cannot_change_in_between(
    rollout: Rollout, receiver: Receiver, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    ask = socket.getaddrinfo

    def answer(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "hooks.example.org":
            looked_up.append(host)
            host = ports.HOST if len(looked_up) == 1 else "192.0.2.1"
        return ask(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    port = receiver.server.server_port
    hook = make_hook(make_organization(), url=f"http://hooks.example.org:{port}/hook")
    assert deliver(due(hook, rollout, now)).status == Status.DELIVERED
    assert looked_up == ["hooks.example.org"]
    assert receiver.got[0][1]["Host"] == f"hooks.example.org:{port}"


def test_a_proxy_of_the_environment_is_not_asked(
    hook: Webhook,
    rollout: Rollout,
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{ports.HOST}:{ports.free()}")
    assert deliver(due(hook, rollout, now)).status == Status.DELIVERED


def test_no_log_line_holds_the_secret_or_the_address(
    hook: Webhook,
    rollout: Rollout,
    receiver: Receiver,
    now: dt.datetime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    receiver.code = 500
    delivery = due(hook, rollout, now)
    WebhookDelivery.objects.update(attempts=pauses.MOST)
    deliver(delivery)
    ours = "".join(line.getMessage() for line in caplog.records if line.name.startswith("ota"))
    assert str(delivery.pk) in ours
    assert hook.secret not in caplog.text
    assert hook.url not in ours


def test_ids_are_those_by_which_a_receiver_knows_a_repetition(
    hook: Webhook, rollout: Rollout, receiver: Receiver, now: dt.datetime
) -> None:
    receiver.code = 500
    delivery = deliver(due(hook, rollout, now))
    make_due(delivery)
    deliver(delivery)
    first, second = (uuid.UUID(headers["X-Fleet-Delivery"]) for _, headers, _ in receiver.got)
    assert first == second == delivery.pk
