"""The choices of a rollout on the command line: the policy, the start and the deadline."""

import argparse
import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser
from django.db import models
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from console.terminal import visible, wrong_call
from ota.models import Policy
from ota.rollouts import FIELDS, InvalidPolicy

NEVER = "none"
_FLAGS = {
    "asks_between_waves": "--ask",
    "keeps_open": "--keep-open",
    "starts_at": "--start",
    "deadline_at": "--deadline",
}


def flag(field: str) -> str:
    """The option of a choice."""
    return _FLAGS.get(field, f"--{field.replace('_', '-')}")


def add_policy(parser: CommandParser, names: Iterable[str] = FIELDS) -> None:
    """Adds the options of the policy; one that is not given is not among the options."""
    for name in names:
        _add(parser, name)


def _add(parser: CommandParser, name: str) -> None:
    field = Policy._meta.get_field(name)
    if not isinstance(field, models.Field):
        raise TypeError(f"{name} is no field")
    given: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    given["help"] = _help(field)
    if isinstance(field, models.BooleanField):
        given["action"] = argparse.BooleanOptionalAction
    else:
        given |= {"type": _reader(field), "metavar": _metavar(field)}
    parser.add_argument(flag(name), **given)


def _help(field: "models.Field[Any, Any]") -> str:
    text = f"{field.verbose_name}: {field.help_text}"
    if field.null:
        text = text.replace("Empty:", f"'{NEVER}':")
    return text.replace("%", "%%")


def _metavar(field: "models.Field[Any, Any]") -> str:
    return "N" if isinstance(field, models.IntegerField) else "TEXT"


def _reader(field: "models.Field[Any, Any]") -> Callable[[str], Any]:
    """Reads a value as the console's form does; ``none`` is no limit."""

    def read(text: str) -> Any:
        if field.null and text.lower() == NEVER:
            return None
        try:
            return field.clean(text, None)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {' '.join(error.messages)}") from error

    return read


def add_times(parser: CommandParser) -> None:
    """Adds the start and the deadline; one that is not given is not among the options."""
    parser.add_argument(
        "--start", dest="starts_at", type=moment, metavar="TIME", default=argparse.SUPPRESS,
        help=f"when the first wave opens, ISO 8601; '{NEVER}': at once",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", dest="deadline_at", type=moment, metavar="TIME", default=argparse.SUPPRESS,
        help=f"what was not sent by then is canceled, ISO 8601; '{NEVER}': never",
    )  # fmt: skip


def moment(text: str) -> dt.datetime | None:
    """The type of an argument that is a time, in this installation's zone unless it names one."""
    if text.lower() == NEVER:
        return None
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None or not 1970 < found.year < 9999:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; expected one such as 2026-11-30T22:00 or 2026-11-30T22:00+01:00"
        )
    return found if timezone.is_aware(found) else timezone.make_aware(found)


def chosen(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the choices that were made."""
    return {name: options[name] for name in names if name in options}


def refuse(error: InvalidPolicy) -> NoReturn:
    """Ends the command because of a choice under which the rollout could not go."""
    option = f"{flag(error.field)}: " if error.field else ""
    wrong_call(f"{option}{visible(str(error))}")
