"""Sizes of waves: read, refused, and cut from a number of docks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota import waves
from ota.waves import InvalidWaves


@pytest.mark.parametrize(
    ("text", "docks", "lengths"),
    [
        ("", 40, [40]),
        ("rest", 40, [40]),
        ("1, 10%, rest", 40, [1, 4, 35]),
        ("5,10%,REST", 1000, [5, 100, 895]),
        ("50%, 50%", 7, [4, 3]),
        ("1%, rest", 3, [1, 2]),
        ("10, 20, rest", 12, [10, 2]),
        ("1, 10%, rest", 1, [1]),
    ],
)
def test_waves_are_cut(text: str, docks: int, lengths: list[int]) -> None:
    assert waves.lengths(waves.parse(text), docks) == lengths


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "an empty wave"),
        ("0%, rest", "no share of a wave"),
        ("101%", "no share of a wave"),
        ("-1, rest", "no size of a wave"),
        ("ten, rest", "no size of a wave"),
        ("rest, 1", "only the last wave"),
        ("60%, 50%, rest", "110 %"),
        ("1, 10%", "end them with 'rest'"),
        ("50%, 40%", "end them with 'rest'"),
        (", ".join(["1"] * 1000), "1000 waves; at most 50"),
    ],
)
def test_waves_that_do_not_add_up_are_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidWaves, match=why):
        waves.parse(text)


@given(counts=st.lists(st.integers(1, 500), max_size=20), docks=st.integers(1, 5000))
def test_every_dock_is_in_one_wave(counts: list[int], docks: int) -> None:
    found = waves.lengths(waves.parse(", ".join(map(str, [*counts, "rest"]))), docks)
    assert sum(found) == docks
    assert all(found)
