"""Keys of rows, as addresses of the console name them."""

import re

_KEY = re.compile(r"[0-9]{1,18}")  # what a database's largest integer holds in any case


def is_key(text: str) -> bool:
    """Whether it can be the key of a row; others make databases raise."""
    return _KEY.fullmatch(text) is not None


def key(text: str) -> int:
    """The key that it is; if it is none, 0, which no row has."""
    return int(text) if is_key(text) else 0
