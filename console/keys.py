"""Keys of rows, as addresses and forms of the console name them."""

import re
from collections.abc import Iterable, Iterator

_KEY = re.compile(r"[0-9]{1,18}")  # what a database's largest integer holds in any case


def is_key(text: str) -> bool:
    """Whether it can be the key of a row; others make databases raise."""
    return _KEY.fullmatch(text) is not None


def key(text: str) -> int:
    """The key that it is; if it is none, 0, which no row has."""
    return int(text) if is_key(text) else 0


def written(keys: Iterable[int]) -> str:
    """Many keys in few characters: for each run how far behind the last one it begins, and how many follow.

    Django takes forms of 2.5 MB, which 350,000 keys in full would fill.
    """
    runs: list[list[int]] = []
    last = 0
    for one in sorted(keys):
        if runs and one == last + 1:
            runs[-1][1] += 1
        else:
            runs.append([one - last, 0])
        last = one
    return ",".join(f"{gap}-{more}" if more else f"{gap}" for gap, more in runs)


def read(text: str, newest: int) -> Iterator[int]:
    """What ``written`` wrote, up to the newest key that there is; what makes no sense is passed by."""
    last = 0
    for run in text.split(","):
        gap, _, more = run.partition("-")
        if start := key(gap):
            first = last + start
            last = first + key(more)
            yield from range(first, min(last, newest) + 1)
