"""The list of bridges in the console, and how one that is gone for good leaves it."""

import pytest
from django.test import Client
from django.urls import reverse

from mqtt_bridge.models import BridgeSession
from tests.make import make_listening
from tests.people import log_in, text

pytestmark = pytest.mark.django_db


def page(session: BridgeSession, verb: str = "change") -> str:
    return reverse(f"admin:mqtt_bridge_bridgesession_{verb}", args=[session.pk])


def test_an_administrator_removes_a_bridge_that_is_gone(client: Client) -> None:
    log_in(client, "Administrators")
    gone = make_listening(connected_since=None)
    assert page(gone, "delete") in client.get(page(gone)).content.decode()
    assert "clear its session at the broker" in text(client.get(page(gone)))
    client.post(page(gone, "delete"), {"post": "yes"})
    assert not BridgeSession.objects.exists()


def test_a_bridge_that_listens_is_not_removed(client: Client) -> None:
    log_in(client, "Administrators")
    session = make_listening()
    assert page(session, "delete") not in client.get(page(session)).content.decode()
    assert client.post(page(session, "delete"), {"post": "yes"}).status_code == 403
    assert BridgeSession.objects.exists()


@pytest.mark.parametrize("group", ["Viewers", "Operators"])
def test_others_may_look_at_bridges_and_remove_none(client: Client, group: str) -> None:
    log_in(client, group)
    gone = make_listening(connected_since=None)
    assert gone.client_id in text(client.get(page(gone)))
    assert client.post(page(gone, "delete"), {"post": "yes"}).status_code == 403
    assert BridgeSession.objects.exists()
