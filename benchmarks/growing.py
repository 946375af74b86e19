"""Whether a process grows: its memory over time, start by start."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks import machine

WARM_UP = 600.0  # s; a third of its life where a process did not live for so long


class Sample(NamedTuple):
    """Memory in MB, with children, so many seconds after the beginning."""

    at: float
    memory: float


class Growth(NamedTuple):
    """How many times as much memory at the end as after the warm-up, over so many seconds."""

    times: float
    memory: float
    seconds: float


class Memory:
    """Samples of processes by name; a restarted one begins anew."""

    def __init__(self) -> None:
        self._lives: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)

    def look(self, at: float, pids: Mapping[str, int]) -> None:
        for name, pid in pids.items():
            try:
                found = machine.memory(pid, "VmRSS")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it, or a child of it, has ended while we looked
            self._lives[name, pid].append(Sample(at, found))

    def growth(self) -> Mapping[str, Growth]:
        """Of each process's longest life."""
        longest: dict[str, Growth] = {}
        for (name, _), life in self._lives.items():
            found = grown(life)
            if found and (name not in longest or found.seconds > longest[name].seconds):
                longest[name] = found
        return longest


def grown(life: Sequence[Sample]) -> Growth | None:
    """Medians of the last and the first fifth after the warm-up; None where there are too few samples."""
    whole = life[-1].at - life[0].at
    start = life[0].at + min(WARM_UP, whole / 3)
    rest = [sample for sample in life if sample.at >= start]
    fifth = len(rest) // 5
    if not fifth:
        return None
    first, last = (
        statistics.median(sample.memory for sample in part)
        for part in (rest[:fifth], rest[-fifth:])
    )
    return Growth(last / first, last, rest[-1].at - rest[0].at)
