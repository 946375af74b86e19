"""The parts of a rollout that go one after the other: sizes such as ``1, 10%, rest``, or one for each site."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

FORM = "such as '1, 10%, rest', or 'sites' for one wave a site"
MOST = 50
SITES = "sites"
REST = "rest"

_PART = re.compile(r"(\d{1,6})(%?)", re.ASCII)


class InvalidWaves(ValueError):
    """Sizes that do not add up; the message says which and what is expected."""


class Size(NamedTuple):
    """How many docks of a wave: a count, a share of all in percent, or (both None) the rest."""

    docks: int | None = None
    percent: int | None = None

    @property
    def is_rest(self) -> bool:
        return self.docks is None and self.percent is None


def parse(text: str) -> tuple[Size, ...]:
    """The sizes of a text; empty: a single wave with all. ``sites`` has none: each site is a wave.

    Without ``rest`` the percents have to make 100.

    Raises:
        InvalidWaves: a part is no size, or they cannot cover all docks.
    """
    if is_by_site(text):
        return ()
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        return (Size(),)
    if len(parts) > MOST:
        raise InvalidWaves(f"{len(parts)} waves; at most {MOST} are taken")
    sizes = tuple(_size(part) for part in parts)
    _refuse_what_does_not_add_up(sizes)
    return sizes


def is_by_site(text: str) -> bool:
    return text.strip().lower() == SITES


def _size(text: str) -> Size:
    if text.lower() == REST:
        return Size()
    match = _PART.fullmatch(text)
    if match is None:
        raise InvalidWaves(f"{text!r} is no size of a wave; expected {FORM}")
    number = int(match[1])
    if match[2] and not 1 <= number <= 100:
        raise InvalidWaves(f"{text!r} is no share of a wave; expected 1% to 100%")
    if number < 1:
        raise InvalidWaves(f"{text!r} is an empty wave; expected at least 1")
    return Size(percent=number) if match[2] else Size(docks=number)


def _refuse_what_does_not_add_up(sizes: Sequence[Size]) -> None:
    if any(size.is_rest for size in sizes[:-1]):
        raise InvalidWaves("only the last wave can be the rest")
    percents = sum(size.percent or 0 for size in sizes)
    if percents > 100:
        raise InvalidWaves(f"the waves make {percents} % of the docks; at most 100 % can go")
    if not sizes[-1].is_rest and percents != 100:
        raise InvalidWaves(f"the waves leave docks over; end them with '{REST}'")


def lengths(sizes: Sequence[Size], docks: int) -> list[int]:
    """How many docks each wave has, of so many in all; waves that would be empty are left out.

    Shares are of all docks and rounded up, so that a wave of 1 % has a dock.
    """
    found: list[int] = []
    for size in sizes:
        left = docks - sum(found)
        wanted = (
            left if size.is_rest else size.docks or math.ceil(docks * (size.percent or 0) / 100)
        )
        found.append(min(wanted, left))
    return [length for length in found if length]
