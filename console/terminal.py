"""How commands answer: aligned tables for people, one JSON document for scripts, exit codes for both."""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, NoReturn, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import DatabaseError, InterfaceError
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

NOT_AS_ASKED = 1
WRONG_CALL = 2

# Columns of a pipe or a file: nothing is cut off there.
_UNLIMITED = 10_000


class AnswerLost(Exception):
    """The answer did not reach who asked."""


class AnsweringCommand(BaseCommand):
    """A command that takes ``--json`` and answers a document, or shows it to people.

    ``done`` is what it has done so far, in a sentence: it is told even if the answer cannot be.
    """

    done = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stdout = _Answers(sys.stdout)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="answer one JSON document and nothing else"
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        _refuse_garbled(options)
        try:
            return super().execute(*args, **options)
        except (DatabaseError, InterfaceError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            told = f"The database does not do its part: {reason}"
            if _misses_table(reason):
                told = f"{told}. If it has no tables yet, run python manage.py migrate."
            raise CommandError(f"{self.done} {told}".lstrip()) from error
        except AnswerLost as error:
            raise CommandError(f"{self.done} {error}".lstrip()) from error

    @cached_property
    def console(self) -> Console:
        """Writes to standard output; what is not a terminal gets long lines instead of cut ones."""
        self.stdout.ending = ""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # not all terminals have all letters
        width = None if self.stdout.isatty() else _UNLIMITED
        return Console(file=cast(IO[str], self.stdout), width=width, highlight=False)

    def answer(self, document: object, *shown: RenderableType, as_json: bool) -> None:
        """Prints the document, or what is shown to people instead."""
        if as_json:
            self.stdout.write(json.dumps(document, indent=2) + "\n")
            self.stdout.flush()
            return
        for each in shown:
            self.console.print(each, markup=False)


class _Answers(OutputWrapper):
    """Standard output.

    Raises:
        AnswerLost: nobody reads it, or it cannot be written.
    """

    def write(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        with _reaching():
            super().write(*args, **kwargs)

    def flush(self) -> None:
        with _reaching():
            super().flush()


@contextmanager
def _reaching() -> Iterator[None]:
    lost = "The answer could not be written: {}. What was done stays done."
    if sys.stdout is None:
        raise AnswerLost(lost.format("standard output is closed"))
    try:
        yield
    except OSError as error:
        # What is left of the answer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise AnswerLost("The answer was not read to its end.") from error
        raise AnswerLost(lost.format(error.strerror)) from error


def wrong_call(message: str) -> NoReturn:
    """Ends the command because of what it was told."""
    raise CommandError(message, returncode=WRONG_CALL)


def not_as_asked(message: str) -> NoReturn:
    """Ends the command although it did its work, because the outcome is not the wanted one."""
    raise CommandError(message, returncode=NOT_AS_ASKED)


def _misses_table(reason: str) -> bool:
    """As SQLite says it, or as PostgreSQL does."""
    return "no such table" in reason or ("relation" in reason and "does not exist" in reason)


def _refuse_garbled(options: dict[str, Any]) -> None:
    """Ends the command if a text is none that a database takes; paths may be named in any bytes."""
    for value in options.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text != text.encode(errors="replace").decode():
                wrong_call(f"An argument is not UTF-8: {visible(text)}")


def refuse_unknown(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    """Ends the command if something was named that there is not; all of it is told at once."""
    if unknown := sorted(set(named) - set(known)):
        shown = [visible(each) or "''" for each in unknown]
        wrong_call(f"Unknown {what}: {', '.join(shown)}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose cells are values (None is empty) or what rich can show."""
    result = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in result.columns:
        column.overflow = "fold"
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def _cell(value: object) -> RenderableType:
    if value is None or isinstance(value, bool | str | int | float):
        return Text(visible(_word(value)))
    return cast(RenderableType, value)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def visible(text: str) -> str:
    """The text without what would steer a terminal: devices may report anything."""
    return "".join(char if char.isprintable() else "�" for char in text)
