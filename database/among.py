"""``filter(pk__among=keys)``: as ``__in`` for many numbers or texts, at a cost that does not grow with them.

Django writes a placeholder for each value of ``__in`` and prepares each one: 10 us a key, five or
ten times over in a chunk of tasks. Here all are one value: an array on PostgreSQL, a JSON list on
SQLite.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection, models
from django.db.backends.base.base import BaseDatabaseWrapper

from database import arrays

_Sql = tuple[str, tuple[str | int, ...]]


class _Among(models.Lookup[Any]):
    lookup_name = "among"
    prepare_rhs = False
    of: type
    array: str
    write: Callable[[Sequence[Any]], str]

    def __init__(self, lhs: Any, rhs: Iterable[Any]) -> None:
        super().__init__(lhs, tuple(map(self.of, rhs)))

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> _Sql:
        if not self.rhs:
            raise EmptyResultSet  # Django asks the database nothing then
        column, values = self.process_lhs(compiler, connection)
        if connection.vendor == "postgresql":
            return f"{column} = ANY(%s::{self.array})", (*values, self.write(self.rhs))
        return f"{column} IN (SELECT value FROM json_each(%s))", (*values, json.dumps(self.rhs))


@models.ForeignKey.register_lookup
@models.IntegerField.register_lookup
class AmongNumbers(_Among):
    """Whether an integer column has one of the values."""

    of = int
    array, write = "bigint[]", staticmethod(arrays.numbers)


@models.CharField.register_lookup
class AmongTexts(_Among):
    """Whether a column of texts has one of the values, spelled as they are."""

    of = str
    array, write = "text[]", staticmethod(arrays.texts)


class Question:
    """A ``values_list`` that is asked often, each time among other texts.

    Django writes its SQL anew each time, and takes as long for that as PostgreSQL for a small batch.
    There it is written once; the values come as the driver reads them.

    Args:
        about: the queryset for some texts, which it hands to ``among``.
    """

    def __init__(self, about: "Callable[[Collection[str]], models.QuerySet[Any, Any]]") -> None:
        self._about = about
        self._written: tuple[str, Sequence[Any]] | None = None

    def rows(self, texts: Collection[str]) -> list[Any]:
        """The rows for these texts, in one query."""
        if connection.vendor != "postgresql":
            return list(self._about(texts))
        self._written = self._written or self._about([_MARK]).query.sql_with_params()
        statement, values = self._written
        mark, given = arrays.texts([_MARK]), arrays.texts(list(texts))
        with connection.cursor() as cursor:
            cursor.execute(statement, [given if value == mark else value for value in values])
            return list(cursor.fetchall())


_MARK = "?"
