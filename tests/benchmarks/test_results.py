"""How figures are compared and written down."""

from pathlib import Path

import pytest

from benchmarks import page, results
from benchmarks.results import Result


def result(ours: float = 80, peer: float | None = 100, **fields: str | float | None) -> Result:
    values = {"peer_name": "bare", "peer": peer, "unit": "/s", "ratio": 0.8} | fields
    return Result("ingest", "messages", ours, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [(">= 0.75 x", True), (">= 0.9 x", False), ("<= 80", True), ("<= 79.5", False), ("", None)],
)
def test_a_goal_is_of_the_ratio_or_of_our_own_figure(goal: str, is_met: bool | None) -> None:
    assert result(goal=goal).is_met is is_met


def test_a_goal_of_a_ratio_that_was_not_measured_is_open() -> None:
    assert result(goal=">= 1 x", ratio=None).is_met is None


@pytest.mark.parametrize("goal", ["fast", "== 3", ">= 3 times"])
def test_a_goal_that_is_written_otherwise_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="a goal is"):
        assert result(goal=goal).is_met


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    assert results.ratio([10, 30, 60], [10, 10, 10]) == 3


def test_where_less_is_better_the_ratio_is_turned_round() -> None:
    assert results.ratio([1, 1, 1], [2, 3, 9], less_is_better=True) == 3


def test_a_round_without_a_figure_has_no_ratio() -> None:
    assert results.ratio([1, 2], [1, 0]) is None


def test_a_section_of_the_page_is_replaced_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PATH", tmp_path / "benchmarks.md")
    page.write("launch", "Launch.", [result(80)], "2 cores", 0.1)
    page.write("ingest", "Ingest.", [result(70)], "2 cores", 0.1)
    page.write("launch", "Launch.", [result(90)], "2 cores", 0.1)
    text = page.PATH.read_text()
    assert text.startswith(page.HEAD)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## ingest",
        "## launch",
    ]
    assert ("90 /s" in text, "80 /s" in text, "70 /s" in text) == (True, False, True)
