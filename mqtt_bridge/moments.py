"""Moments that stay where they are when the wall clock is set."""

import datetime as dt
import time

from django.utils import timezone


class Moment:
    """A moment, kept by the clock that nobody sets: what happened a minute ago stays a minute ago."""

    def __init__(self, at: dt.datetime) -> None:
        self._counted = time.monotonic() - (timezone.now() - at).total_seconds()

    def at(self) -> dt.datetime:
        """When it was, by the wall clock as it is now."""
        return timezone.now() - dt.timedelta(seconds=time.monotonic() - self._counted)
