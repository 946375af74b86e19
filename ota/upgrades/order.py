"""Whether a dock said one thing before another, as far as its clock and ours can tell.

Its clock is set when it likes, ours too, and messages come late. A clock that is set back in the middle
without a start cannot be told from a message that is late.
"""

import datetime as dt
from typing import NamedTuple


class Word(NamedTuple):
    """When a dock said something, by its own clock, and when we heard it, by ours."""

    said_at: dt.datetime | None
    heard_at: dt.datetime | None


NEVER = Word(None, None)


def is_before(word: Word, other: Word, start: Word) -> bool:
    """Whether the word was said before the other one; ``start`` is the dock's last topology.

    Not if its clock was set back at a start between the two, nor if ours was: then what came before lies
    in the future.
    """
    if not (word.said_at and word.heard_at and other.said_at) or word.said_at >= other.said_at:
        return False
    is_ours_back = other.heard_at and other.heard_at < word.heard_at < other.said_at
    return not (is_ours_back or _is_new_clock(word, other, start))


def _is_new_clock(word: Word, other: Word, start: Word) -> bool:
    """Whether the dock said the word after a start that came after the other one."""
    if not (word.said_at and word.heard_at and other.heard_at and start.said_at and start.heard_at):
        return False
    return other.heard_at < start.heard_at <= word.heard_at and start.said_at <= word.said_at
