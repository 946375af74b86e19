"""What an operator chooses for a rollout, and what of that could never go."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError

from fleet import versions
from fleet.models import Site
from ota import needs
from ota.models import Criterion, Policy, Rollout
from ota.upgrades import hours

FIELDS = tuple(field.name for field in Policy._meta.fields)

NO_LIST = (
    "Only a whole list can be kept open: all devices, or those of a model, kind, organization, site or "
    "need; not devices picked by hand, searched for, or listed by presence or version."
)
# At the end of the calendar a time has no equal on the clock of every site.
FARTHEST = dt.timedelta(days=36525)
# The minute that a form tells, and one to press the button.
JUST_BEGUN = dt.timedelta(minutes=2)


class InvalidPolicy(ValueError):
    """A policy under which the rollout could not go; ``field`` is the choice to change.

    It is empty where the devices are what is wrong.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Options(NamedTuple):
    """What an operator chooses for a rollout.

    ``to`` is a version for all, empty for the newest of each model; ``to_by_model`` instead of it holds
    versions as numbers by the key of their model, and no other model is upgraded; ``with_aircraft`` adds
    the aircraft of chosen docks; ``pilot`` are serial numbers that make the first wave; ``policy`` holds
    those fields of ``Policy`` that differ from the organization's. ``criteria``, not saved yet, are what
    the devices were chosen by; none where they were picked by hand. ``need`` leaves out devices with
    another one; ``is_automatic`` says that nobody but the system starts it. ``rest_of`` is the rollout
    whose devices never join it: the one that it is a clone of.
    """

    name: str = ""
    to: str = ""
    to_by_model: Mapping[int, int] = MappingProxyType({})
    allow_downgrade: bool = False
    with_aircraft: bool = False
    pilot: Sequence[str] = ()
    starts_at: dt.datetime | None = None
    deadline_at: dt.datetime | None = None
    policy: Mapping[str, Any] = MappingProxyType({})
    criteria: Sequence[Criterion] = ()
    need: str = ""
    is_automatic: bool = False
    rest_of: Rollout | None = None

    @property
    def target(self) -> needs.Target:
        """What is wanted, in numbers.

        Raises:
            fleet.versions.InvalidVersion: ``to`` is no version.
        """
        if self.to:
            return versions.number(versions.canonical(self.to))
        return self.to_by_model or None


def check(options: Options, policy: Mapping[str, Any], now: dt.datetime) -> None:
    """Refuses what could never go.

    Raises:
        InvalidPolicy: a value is not right, the deadline has passed, or the hours are never long enough.
    """
    named = Rollout(name=options.name or "by its time", **policy)
    clean(named, (*FIELDS, "name"))
    if policy["keeps_open"] and not options.criteria:
        raise InvalidPolicy("keeps_open", NO_LIST)
    refuse_past(options.starts_at, now)
    refuse_times(options.starts_at, options.deadline_at, now)


def refuse_past(starts_at: dt.datetime | None, now: dt.datetime) -> None:
    """Refuses a start that nobody can have meant.

    Raises:
        InvalidPolicy: it has passed.
    """
    if starts_at and starts_at < now - JUST_BEGUN:
        text = "The start has passed already: choose a later one, or none to start at once."
        raise InvalidPolicy("starts_at", text)


def refuse_times(
    starts_at: dt.datetime | None, deadline_at: dt.datetime | None, now: dt.datetime
) -> None:
    """Refuses a deadline by which nothing can have been issued, and times that nobody can mean.

    Raises:
        InvalidPolicy: the deadline is over or before the start, or one of them is too far away.
    """
    for name, at in (("starts_at", starts_at), ("deadline_at", deadline_at)):
        if at and at > now + FARTHEST:
            raise InvalidPolicy(name, "This is more than a hundred years away: correct the year.")
    if deadline_at and deadline_at <= now:
        raise InvalidPolicy("deadline_at", "The deadline has passed already.")
    if deadline_at and starts_at and deadline_at <= starts_at:
        raise InvalidPolicy("deadline_at", "The deadline is before the start.")


def refuse_closed(
    policy: Policy, sites: Collection[Site | None], start: dt.datetime, deadline: dt.datetime
) -> None:
    """Refuses hours that let no command go before the deadline.

    Raises:
        InvalidPolicy: they open at none of the sites by then.
    """
    if sites and not hours.open_in_time(policy, sites, start, deadline):
        text = "The hours are nowhere long enough before the deadline: nothing would ever start."
        raise InvalidPolicy("deadline_at", text)


def clean(rollout: Rollout, names: Collection[str]) -> None:
    """Refuses values of the named fields that are not right.

    Raises:
        InvalidPolicy: for the first of them.
    """
    others = [field.name for field in Rollout._meta.fields if field.name not in names]
    try:
        rollout.clean_fields(exclude=others)
        rollout.clean()
    except ValidationError as error:
        name, texts = next(iter(error.message_dict.items()))
        raise InvalidPolicy(name, texts[0]) from error
