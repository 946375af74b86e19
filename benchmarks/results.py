"""What a benchmark returns: each figure beside its peer in the same run, and the goal."""

import enum
import operator
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.table import Table

_COMPARE = {">=": operator.ge, "<=": operator.le}


class Size(enum.Enum):
    """``SMALL`` takes a few seconds and shows that it still works; ``FULL`` is what we quote."""

    SMALL = "small"
    FULL = "full"

    @property
    def rounds(self) -> int:
        """How often each side is measured, in turns."""
        return 1 if self is Size.SMALL else 3


class Result(NamedTuple):
    """One figure; ``ours`` and ``peer`` in ``unit``.

    ``ratio`` is above 1 where ours is the better one, and the median of the rounds' ratios: see
    ``ratio``. ``goal`` is ``>= 0.75 x`` of the ratio, or ``<= 500`` of ours in its unit.
    """

    topic: str
    what: str
    ours: float
    peer_name: str = ""
    peer: float | None = None
    unit: str = ""
    ratio: float | None = None
    goal: str = ""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing to compare.

        Raises:
            ValueError: the goal is written in another way.
        """
        if not self.goal:
            return None
        words = re.fullmatch(r"([<>]=) ([0-9.]+)( x)?", self.goal)
        if not words:
            raise ValueError(f"a goal is '>= 0.75 x' or '<= 500', not {self.goal!r}")
        sign, wanted, of_ratio = words.groups()
        found = self.ratio if of_ratio else self.ours
        return None if found is None else bool(_COMPARE[sign](found, float(wanted)))


def ratio(
    ours: Sequence[float], peer: Sequence[float], *, less_is_better: bool = False
) -> float | None:
    """The median of the rounds' ratios; None where a round measured nothing."""
    pairs = list(zip(peer, ours, strict=True) if less_is_better else zip(ours, peer, strict=True))
    if not all(below for _, below in pairs):
        return None
    return statistics.median(above / below for above, below in pairs)


HEADINGS = ("What", "Ours", "Peer", "Ratio", "Goal", "Note")


def cells(result: Result) -> tuple[str, ...]:
    """A result in words, under ``HEADINGS``."""
    peer = "" if result.peer is None else f"{result.peer_name}: {shown(result.peer, result.unit)}"
    times = "" if result.ratio is None else f"{number(result.ratio)} x"
    verdict = {None: "", True: ", met", False: ", **not met**"}[result.is_met]
    ours = shown(result.ours, result.unit)
    return (result.what, ours, peer, times, result.goal + verdict, result.note)


def shown(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".strip()


def number(value: float) -> str:
    """Three digits tell all that a benchmark knows."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(results: Iterable[Result]) -> Table:
    found = Table(*HEADINGS)
    for result in results:
        found.add_row(*cells(result))
    return found
