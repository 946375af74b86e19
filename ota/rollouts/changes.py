"""What somebody changed about a rollout, in the words of the forms."""

import datetime as dt
from typing import Any

from ota.models import Rollout
from ota.moments import moment

# What people call these, wherever they choose them; all others are called as in the model.
LABELS = {
    "limit_in_flight": "Docks at a time",
    "limit_per_site": "Docks of a site at a time",
    "starts_at": "Start",
    "deadline_at": "Deadline",
}
_CALLED = {field.name: str(field.verbose_name) for field in Rollout._meta.fields}
_EMPTY = {"starts_at": "at once", "windows": "at any time"}


def told(name: str, before: Any, after: Any) -> str:
    """One field with its value before and after, such as ``docks at a time: 20 -> 5``."""
    label = LABELS.get(name) or _CALLED[name]
    return f"{label.lower()}: {_value(name, before)} -> {_value(name, after)}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return moment(value)
    return _EMPTY.get(name, "none") if value in (None, "") else str(value)
