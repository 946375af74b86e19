"""Keys of rows, as addresses of the console name them."""

import re

_KEY = re.compile(r"[0-9]{1,18}")  # what a database's largest integer holds in any case


def is_key(text: str) -> bool:
    """Whether it can be the key of a row; others make databases raise."""
    return _KEY.fullmatch(text) is not None
