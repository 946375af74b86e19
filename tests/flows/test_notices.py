"""News on its way through the worker and the clock to other people's systems."""

import json
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from ota import rollouts
from ota.models import Rollout, Webhook, WebhookDelivery
from ota.models.rollouts import RolloutEvent
from tests.make import make_dock, make_organization, make_rollout, make_task, make_webhook
from tests.people import make_person
from tests.processes import Processes, eventually
from tests.receivers import MailServer, Receiver

pytestmark = [pytest.mark.services, pytest.mark.everywhere, pytest.mark.timeout(900)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.end()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    started = MailServer()
    yield started
    started.end()


@pytest.fixture
def author(transactional_db: None) -> User:
    user = make_person("Operators")
    User.objects.filter(pk=user.pk).update(email="ada@example.org")
    return user


def paused_rollout(author: User, hook_url: str) -> Rollout:
    """A rollout that has just paused by itself."""
    organization = make_organization(identifier="acme")
    make_webhook(organization, url=hook_url)
    rollout = make_rollout(name="Spring", created_by=author)
    make_task(make_dock(organization=organization), rollout=rollout)
    rollouts.course.pause(
        rollout, "3 upgrades failed", timezone.now(), kind=RolloutEvent.Kind.STOPPED
    )
    return rollout


def test_a_rollout_that_pauses_reaches_bell_mailbox_and_webhook(
    processes: Processes, receiver: Receiver, mail_server: MailServer, author: User
) -> None:
    processes.worker(WEBHOOK_ALLOW_PRIVATE="1", EMAIL_URL=mail_server.url)
    processes.beat()
    paused_rollout(author, receiver.url)
    eventually(lambda: receiver.got, "the webhook's call")
    eventually(lambda: mail_server.got, "the e-mail")
    assert json.loads(receiver.got[0][2])["text"] == "3 upgrades failed"
    assert "Subject: Spring has paused by itself" in mail_server.got[0]
    assert "To: ada@example.org" in mail_server.got[0]
    assert author.notices.get(is_shown=True).news.kind == "stopped"
    eventually(lambda: WebhookDelivery.objects.filter(status="delivered").exists(), "the log")
    assert (len(receiver.got), len(mail_server.got)) == (1, 1)


def test_a_worker_that_is_killed_while_it_sends_loses_nothing(
    processes: Processes, receiver: Receiver, author: User
) -> None:
    receiver.hold.clear()
    worker = processes.worker(WEBHOOK_ALLOW_PRIVATE="1")
    processes.beat()
    paused_rollout(author, receiver.url)
    eventually(lambda: receiver.got, "the webhook's call")
    worker.kill9()
    receiver.hold.set()
    assert WebhookDelivery.objects.get().status == "pending"
    Webhook.objects.update(claimed_until=timezone.now())  # a minute later
    worker.start()
    eventually(lambda: WebhookDelivery.objects.get().status == "delivered", "the next try")
    first, second = (headers["X-Fleet-Delivery"] for _, headers, _ in receiver.got)
    assert first == second
