"""PostgreSQL's arrays, written as a text by us: the driver asks for each element how to write it.

That took it five times as long.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any


def numbers(values: Iterable[int]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def texts(values: Sequence[str]) -> str:
    if not values:
        return "{}"
    joined = '","'.join(values)
    if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
        return f'{{"{joined}"}}'  # the usual case: no text needs an escape
    return mixed(values)


def mixed(values: Iterable[Any]) -> str:
    """Of numbers, texts, times and None, also beside each other."""
    return f"{{{','.join([_element(value) for value in values])}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
