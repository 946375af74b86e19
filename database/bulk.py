"""Writing many rows at once, with SQL of our own.

Django's ``bulk_update`` builds one CASE per row and column: about 475 us a row where these
statements take 10 to 13 (2 cores, 500 rows, SQLite and PostgreSQL). Its ``bulk_create`` on SQLite
takes a statement for every 999 values.

On PostgreSQL each is one statement over arrays, whatever the number of rows. On SQLite it is a
prepared statement that runs for as many rows at once as it takes parameters for: at each run the
driver lets other threads have their turn, and waits for its own.

Columns are what costs, so they are handled as such: one that has the same value in all rows goes
out once.
"""

import datetime as dt
import functools
import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connection, models

from database import arrays

Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]


class _Column(NamedTuple):
    """A column with its values, as the driver takes them."""

    name: str
    field: "models.Field[Any, Any]"
    values: Sequence[Any]

    @property
    def is_same(self) -> bool:
        """Whether all rows have one value."""
        return self.values.count(self.values[0]) == len(self.values)


def insert(rows: Iterable[models.Model], *, ignore_conflicts: bool = False) -> None:
    """Inserts new objects of one model; their primary keys stay unknown.

    ``ignore_conflicts`` passes by what a unique constraint refuses.
    """
    _insert_objects(list(rows), "ON CONFLICT DO NOTHING" if ignore_conflicts else "")


def insert_rows(
    model: type[models.Model], rows: Sequence[Row], *, ignore_conflicts: bool = False
) -> None:
    """Inserts rows that all name the same fields, foreign keys as ``name_id``.

    The others have their defaults, one value for all. Cheaper than ``insert``: no objects are made.
    """
    if rows:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        insert_columns(model, columns, ignore_conflicts=ignore_conflicts)


def insert_columns(
    model: type[models.Model], columns: Columns, *, ignore_conflicts: bool = False
) -> None:
    """As ``insert_rows``, with a sequence of values for each field."""
    tail = "ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    _insert(model, _with_defaults(model, columns), tail)


def insert_new(model: type[models.Model], columns: Columns, key: str) -> set[Any]:
    """As ``insert_columns``, rows that are not there yet; returns their values of ``key``, a unique field.

    No two rows may have one key.
    """
    given, field = columns[key], _field(model, key)
    if not given:
        return set()
    found = _with_defaults(model, columns)
    if connection.vendor == "postgresql":
        new = _insert_new_on_postgres(model, found, field)
        return set(given) if new is None else {v for v in given if field.to_python(v) in new}
    # SQLite's ``executemany`` returns nothing; only one writes at a time, so a look before will do.
    stored = next(column.values for column in found if column.field is field)
    known = _known_on_sqlite(model, field, stored)
    _insert(model, found, "ON CONFLICT DO NOTHING")
    return {value for value, key in zip(given, stored, strict=True) if key not in known}


def add_up(
    rows: Iterable[models.Model],
    *,
    unique: Sequence[str],
    sums: Sequence[str],
    latest: Sequence[str],
) -> None:
    """Inserts objects of one model, or adds them to the rows that are there, whoever else does so.

    Args:
        unique: the fields of the constraint that tells which row is meant; foreign keys by name.
        sums: what is added to the row's value.
        latest: what takes the place of the row's value, unless it is None.
    """
    objects = list(rows)
    if not objects:
        return
    model = type(objects[0])
    table = _quoted(model._meta.db_table)
    keys = ", ".join(_quoted(_field(model, name).column) for name in unique)
    added = [_quoted(_field(model, name).column) for name in sums]
    taken = [_quoted(_field(model, name).column) for name in latest]
    changes = [f"{column} = {table}.{column} + excluded.{column}" for column in added]
    changes += [f"{column} = COALESCE(excluded.{column}, {table}.{column})" for column in taken]
    _insert_objects(objects, f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(changes)}")


def update(
    model: type[models.Model],
    columns: Sequence[str],
    rows: Mapping[int, Row],
    guard: str = "",
) -> None:
    """Sets fields of rows by primary key; what a row does not name, or names None, stays as it is.

    Args:
        columns: the fields that any row may name, foreign keys as ``name_id``.
        rows: primary key to values, as Python objects.
        guard: SQL that must hold, over the stored row ``t`` and the new values ``v``; a trusted text.
    """
    if not rows:
        return
    # In one order everywhere, so that two writers wait for each other instead of deadlocking.
    pks = sorted(rows)
    found = _columns(model, columns, [rows[pk] for pk in pks])
    named = [column for column in found if guard or any(v is not None for v in column.values)]
    if not named:
        return
    key = model._meta.pk
    head = f"UPDATE {_quoted(model._meta.db_table)} AS t SET {_assignments(named)}"
    tail = f"WHERE t.id = v.pk{f' AND ({guard})' if guard else ''}"
    source = [_Column(_quoted("pk"), key, pks), *named]
    if connection.vendor == "postgresql":
        text, given = _arrays(source)
        with connection.cursor() as cursor:
            cursor.execute(f"{head} FROM ({text}) AS v {tail}", given)
        return
    values, steps = _steps([column.values for column in source])
    named_alike = ", ".join(f"column{n} AS {column.name}" for n, column in enumerate(source, 1))
    with connection.cursor() as cursor:
        cursor.executemany(f"{head} FROM (SELECT {named_alike} FROM ({values})) AS v {tail}", steps)


def refresh_statistics(*grown: type[models.Model]) -> None:
    """Lets the database look how much these tables hold, after they have grown by much at once.

    PostgreSQL looks by itself a minute later and SQLite never; until then they plan as for few
    rows. A question about 250 of 10,000 tasks took SQLite 900 ms instead of one.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA analysis_limit = 1000")
        for model in grown:
            cursor.execute(f"ANALYZE {_quoted(model._meta.db_table)}")


def _insert_objects(objects: Sequence[models.Model], tail: str) -> None:
    if not objects:
        return
    model = type(objects[0])
    fields = [field for field in model._meta.local_concrete_fields if not field.primary_key]
    rows = [{f.attname: f.pre_save(one, add=True) for f in fields} for one in objects]
    _insert(model, _columns(model, [field.attname for field in fields], rows), tail)


def _insert_new_on_postgres(
    model: type[models.Model], columns: Sequence[_Column], key: "models.Field[Any, Any]"
) -> set[Any] | None:
    """The keys of the rows that were new; None for all of them, which is nearly always so."""
    tail = f"ON CONFLICT DO NOTHING RETURNING {_quoted(key.column)} AS key"
    statement, values = _inserting_arrays(model, columns, tail)
    new = "CASE WHEN count(*) < %s THEN coalesce(array_agg(key), '{}') END"
    with connection.cursor() as cursor:
        asked = f"WITH new AS ({statement}) SELECT {new} FROM new"
        cursor.execute(asked, [*values, len(columns[0].values)])
        (found,) = cursor.fetchone()
    return None if found is None else set(found)


def _insert(model: type[models.Model], columns: Sequence[_Column], tail: str) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(*_inserting_arrays(model, columns, tail))
            return
        alike = [column.is_same for column in columns]
        once = [c.values[0] for c, is_same in zip(columns, alike, strict=True) if is_same]
        many = [c.values for c, is_same in zip(columns, alike, strict=True) if not is_same]
        # The first column tells rows from those that fill up the last step.
        values, steps = _steps([[1] * len(columns[0].values), *many], once)
        numbers = itertools.count(2)
        named = ", ".join("%s" if is_same else f"column{next(numbers)}" for is_same in alike)
        head = f"{_into(model, columns)} SELECT {named} FROM ({values}) WHERE column1"
        cursor.executemany(f"{head} {tail}", steps)


def _inserting_arrays(
    model: type[models.Model], columns: Sequence[_Column], tail: str
) -> tuple[str, list[Any]]:
    """The statement for PostgreSQL, and its parameters."""
    text, values = _arrays(columns)
    return f"{_into(model, columns)} {text} {tail}", values


def _into(model: type[models.Model], columns: Sequence[_Column]) -> str:
    names = ", ".join(column.name for column in columns)
    return f"INSERT INTO {_quoted(model._meta.db_table)} ({names})"


def _steps(
    columns: Sequence[Sequence[Any]], once: Sequence[Any] = ()
) -> tuple[str, list[list[Any]]]:
    """What SQLite runs for many rows at once: their VALUES as a text, and the parameters of each run.

    All runs are of one length, so that they are one statement: empty rows fill up the last one. Each begins
    with what all rows have ``once``.
    """
    rows = list(zip(*columns, strict=True))
    most = ((connection.features.max_query_params or 999) - len(once)) // len(columns)
    number = most if len(rows) >= 2 * most else 1
    rows += [(None,) * len(columns)] * (-len(rows) % number)
    row = f"({', '.join(['%s'] * len(columns))})"
    starts = range(0, len(rows), number)
    runs = [[*once, *itertools.chain.from_iterable(rows[at : at + number])] for at in starts]
    return f"VALUES {', '.join([row] * number)}", runs


def _with_defaults(model: type[models.Model], given: Columns) -> list[_Column]:
    fields = [field for field in model._meta.local_concrete_fields if not field.primary_key]
    number = len(next(iter(given.values())))
    return [
        _Column(
            _quoted(field.column),
            field,
            _stored(field, given.get(field.attname) or [field.get_default()] * number),
        )
        for field in fields
    ]


def _known_on_sqlite(
    model: type[models.Model], field: "models.Field[Any, Any]", stored: Sequence[Any]
) -> set[Any]:
    """Those of the values that are there."""
    name, table = _quoted(field.column), _quoted(model._meta.db_table)
    sql = f"SELECT {name} FROM {table} WHERE {name} IN (SELECT value FROM json_each(%s))"
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(stored)])
        return {found for (found,) in cursor.fetchall()}


def _columns(model: type[models.Model], names: Sequence[str], rows: Sequence[Row]) -> list[_Column]:
    fields = [_field(model, name) for name in names]
    return [
        _Column(_quoted(field.column), field, _stored(field, [row.get(name) for row in rows]))
        for name, field in zip(names, fields, strict=True)
    ]


# What these fields are given is what they store: no need to ask for each value.
_AS_GIVEN = (
    models.BooleanField,
    models.CharField,
    models.ForeignKey,
    models.IntegerField,
    models.TextField,
)


def _stored(field: "models.Field[Any, Any]", values: Sequence[Any]) -> Sequence[Any]:
    is_postgres = connection.vendor == "postgresql"
    if isinstance(field, _AS_GIVEN):
        return values
    if isinstance(field, models.DateTimeField):
        return values if is_postgres else [*_written(values, _sqlite_time)]
    if isinstance(field, models.UUIDField):
        return values if is_postgres else [*_written(values, _sqlite_uuid)]
    return [None if v is None else field.get_db_prep_save(v, connection) for v in values]


def _arrays(columns: Sequence[_Column]) -> tuple[str, list[Any]]:
    """A SELECT of these rows for PostgreSQL, and its parameters."""
    once = [column.is_same for column in columns]
    once[0] = False  # somebody has to tell how many rows there are
    picked, arrays, names, single, many = [], [], [], [], []
    for column, is_once in zip(columns, once, strict=True):
        kind = _type(column.field)
        if is_once:
            picked.append(f"%s::{kind} AS {column.name}")
            single.append(column.values[0])
        else:
            picked.append(f"a.{column.name}")
            arrays.append(f"%s::{kind}[]")
            names.append(column.name)
            many.append(_array(column))
    source = f"unnest({', '.join(arrays)}) AS a({', '.join(names)})"
    return f"SELECT {', '.join(picked)} FROM {source}", [*single, *many]


def _array(column: _Column) -> Any:
    values, kinds = column.values, set(map(type, column.values))
    if isinstance(column.field, models.JSONField):
        return list(values)
    if kinds == {int}:
        return arrays.numbers(values)
    if kinds == {str}:
        return arrays.texts(values)
    if kinds == {dt.datetime}:
        return f"{{{','.join(map(str, _written(values, dt.datetime.isoformat)))}}}"
    return arrays.mixed(values)


def _written(values: Iterable[Any], write: Callable[[Any], str]) -> Iterator[str | None]:
    """Each value written: what came together has one and the same time, a thousand rows in a row."""
    last, text = None, None
    for value in values:
        if value is not last:
            last, text = value, None if value is None else write(value)
        yield text


# As Django stores them on SQLite; it asks for the settings and the time zone for each value anew.


def _sqlite_time(value: dt.datetime) -> str:
    return str(value.astimezone(dt.UTC)).removesuffix("+00:00")


def _sqlite_uuid(value: uuid.UUID | str) -> str:
    return str(value).replace("-", "").lower()


def _assignments(columns: Iterable[_Column]) -> str:
    return ", ".join(f"{name} = COALESCE(v.{name}, t.{name})" for name, _, _ in columns)


def _field(model: type[models.Model], name: str) -> "models.Field[Any, Any]":
    field = model._meta.get_field(name.removesuffix("_id"))
    if not isinstance(field, models.Field):
        raise TypeError(f"{name} is no column of {model._meta.label}")
    return field


@functools.cache  # asked for each column of each batch; only PostgreSQL has arrays
def _type(field: "models.Field[Any, Any]") -> str:
    """The column's type without its length, as arrays name it."""
    return str(
        field.rel_db_type(connection) if field.remote_field else field.db_type(connection)
    ).split("(")[0]


@functools.cache
def _quoted(name: str | None) -> str:
    return connection.ops.quote_name(str(name))
