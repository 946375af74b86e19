"""``docs/benchmarks.md``: a section for each topic, replaced when that topic is measured anew."""

import re
from collections.abc import Sequence
from pathlib import Path

from django.utils import timezone

from benchmarks.results import HEADINGS, Result, cells

PATH = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

What we claim about speed, measured. `make bench` writes this page; `make bench TOPICS="launch"` renews one section. All
of it takes about an hour on two cores, of which `delivery` takes 25 minutes, and 4 GB in the temporary folder. `soak`
takes another hour, and is measured only where it is named. What servers and browser are missing is installed with apt.

Where people would use something else instead of ours, that is the peer, measured in turns in the same run on the same
machine; other figures stand alone. A ratio above 1 means that ours is better. Figures are medians of three rounds, and
a ratio is the median of the rounds' ratios. Measured once are: `soak`; both sides of `upload`, whose files differ in
size; the slow clients of `delivery`; in `history` the bytes, what is written ahead, the folding and the room; in
`ingest` the telemetry of all docks. Memory, frames and how far a load fell behind are the largest of all rounds.

Compare ratios, not absolute figures: these hold for a similar machine only. "Others used" tells how much of the machine
other programs took meanwhile, and so how far to trust the figures.
"""


def write(topic: str, title: str, results: Sequence[Result], machine: str, others: float) -> None:
    """Puts the section of a topic in its place; the others stay as they are."""
    old = PATH.read_text() if PATH.exists() else HEAD
    found = dict(re.findall(r"^(## .+)\n((?:(?!## ).*\n)*)", old, flags=re.MULTILINE))
    heading = f"## {topic}"
    found[heading] = _section(title, results, machine, others)
    sections = [f"{name}\n{found[name].rstrip()}\n" for name in sorted(found)]
    PATH.write_text("\n".join([HEAD, *sections]))


def _section(title: str, results: Sequence[Result], machine: str, others: float) -> str:
    today = timezone.now().date()
    lines = [
        "",
        title,
        "",
        f"Measured on {today} on {machine}. Others used {others:.1f} cores.",
        "",
    ]
    lines += [_row(HEADINGS), _row(["---"] * len(HEADINGS))]
    lines += [_row(cells(result)) for result in results]
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |".replace("|  |", "| |")
