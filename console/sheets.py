"""Tables for other programs: CSV, which a spreadsheet may open without harm."""

import csv
import datetime as dt
import io
from collections.abc import Iterable, Sequence
from typing import Any

PIECE = 1000  # rows that are written at a time


def lines(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> str:
    """As text; a spreadsheet would run what begins like a formula."""
    if isinstance(cell, dt.datetime):
        return cell.isoformat()
    text = "" if cell is None else str(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
