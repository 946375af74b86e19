"""A line chart as SVG: a few lines over a few sizes, both axes logarithmic, for light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 80, 180, 46, 40
# Of a middle brightness, and apart for those who see few colours; each line has its name at its end.
COLOURS = ("#0f7fbf", "#d1603d", "#2e9b6b", "#a367c9", "#b58900", "#7d8b99")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#888;stroke-opacity:.3}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)


def logarithmic(title: str, labels: Sequence[str], lines: Mapping[str, Sequence[float]]) -> str:
    """The chart; each line has a value above 0 for each label, and the labels are evenly apart."""
    values = [value for line in lines.values() for value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(index: int) -> float:
        return LEFT + index * (WIDTH - LEFT - RIGHT) / (len(labels) - 1)

    def y(value: float) -> float:
        return TOP + (high - math.log10(value)) * (HEIGHT - TOP - BOTTOM) / (high - low)

    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.0f}" y2="{at:.0f}"/>'
        )
        parts.append(_text(LEFT - 8, at + 4, f"{10.0**power:,.10g}", "end"))
    parts += [_text(x(i), HEIGHT - 14, label, "middle") for i, label in enumerate(labels)]
    ends = _apart([y(line[-1]) for line in lines.values()])
    for (name, line), colour, end in zip(lines.items(), COLOURS, ends, strict=False):
        points = " ".join(f"{x(i):.0f},{y(value):.0f}" for i, value in enumerate(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 8, end + 4, name, "start", colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, words: str, anchor: str, colour: str = "") -> str:
    fill = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{fill}>{escape(words)}</text>'


def _apart(places: Sequence[float], least: float = 15) -> list[float]:
    """The same places, moved down where two names would lie upon each other."""
    moved = list(places)
    last = -math.inf
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        last = moved[index] = max(places[index], last + least)
    return moved
