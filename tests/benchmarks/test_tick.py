"""What is timed of a tick is what it does while a bridge listens."""

import datetime as dt
from collections.abc import Callable

import pytest
from django.utils import timezone

from benchmarks import tick
from mqtt_bridge.models import BridgeSession
from tests.make import make_listening

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("prepare", [tick.all_changed, tick.nothing_changed])
def test_the_bridge_lives_when_a_tick_is_timed_however_long_the_filling_took(
    prepare: Callable[[], None],
) -> None:
    make_listening(seen_at=timezone.now() - dt.timedelta(minutes=5))
    prepare()
    heard = BridgeSession.objects.heard(timezone.now())
    assert heard
    assert timezone.now() - heard.until < BridgeSession.SILENCE
