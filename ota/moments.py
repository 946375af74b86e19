"""Times as people read them: on the clock of this installation, with its zone."""

import datetime as dt

from django.utils import timezone


def moment(at: dt.datetime | None) -> str:
    """A time on this installation's clock, with its zone; empty if there is none."""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M %Z}" if at else ""
