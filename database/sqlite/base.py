"""What Django asks a database engine for, on SQLite."""

import datetime as dt
import sqlite3
from typing import Any

from django.db.backends.sqlite3 import base, operations
from django.db.models.expressions import Col, Expression
from django.utils.dateparse import parse_datetime


def _time(data: bytes) -> dt.datetime | None:
    """A ``datetime`` as Django writes it, in UTC without saying so; read by C, and Django's own by Python."""
    text = data.decode()
    try:
        return dt.datetime.fromisoformat(f"{text}+00:00")
    except ValueError:  # somebody else has written it
        found = parse_datetime(text)
        return found.replace(tzinfo=dt.UTC) if found and found.tzinfo is None else found


sqlite3.register_converter("datetime", _time)


class DatabaseOperations(operations.DatabaseOperations):
    def get_db_converters(self, expression: Expression) -> list[Any]:
        """None for a column of times, which comes as it should: to look at each costs as much as to read it."""
        is_time = expression.output_field.get_internal_type() == "DateTimeField"
        is_ready = is_time and isinstance(expression, Col)
        return [] if is_ready else super().get_db_converters(expression)


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations
