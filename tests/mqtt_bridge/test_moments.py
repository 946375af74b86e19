"""Moments that stay where they are when the clock is set."""

import datetime as dt

import pytest
import time_machine
from django.utils import timezone

from mqtt_bridge.moments import Moment

MINUTE = dt.timedelta(minutes=1)


@pytest.mark.parametrize("hours", [-3, 0, 3])
def test_a_moment_is_as_long_ago_as_it_was_whatever_the_clock_says(hours: int) -> None:
    moment = Moment(timezone.now() - 30 * MINUTE)
    with time_machine.travel(timezone.now() + dt.timedelta(hours=hours), tick=True):
        ago = timezone.now() - moment.at()
    assert 29 * MINUTE < ago < 31 * MINUTE
