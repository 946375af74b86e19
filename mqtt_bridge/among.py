"""``filter(pk__among=keys)``: as ``__in`` for many integer keys, at a cost that does not grow with them.

Django writes a placeholder for each value of ``__in`` and prepares each one: 10 us a key, five or
ten times over in a chunk of tasks. Here all keys are one value: an array on PostgreSQL, a JSON
list on SQLite.
"""

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

_Sql = tuple[str, tuple[str | int, ...]]


@models.ForeignKey.register_lookup
@models.IntegerField.register_lookup
class Among(models.Lookup[Any]):
    """Whether an integer column has one of the values."""

    lookup_name = "among"
    prepare_rhs = False

    def __init__(self, lhs: Any, rhs: Iterable[int]) -> None:
        super().__init__(lhs, ",".join([str(int(key)) for key in rhs]))

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> _Sql:
        if not self.rhs:
            raise EmptyResultSet  # Django asks the database nothing then
        column, values = self.process_lhs(compiler, connection)
        if connection.vendor == "postgresql":
            return f"{column} = ANY(%s::bigint[])", (*values, f"{{{self.rhs}}}")
        return f"{column} IN (SELECT value FROM json_each(%s))", (*values, f"[{self.rhs}]")
