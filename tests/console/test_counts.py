"""Numbers as people read them."""

import pytest

from console.counts import count


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 docks"), (1, "1 dock"), (2, "2 docks"), (1000, "1,000 docks")],
)
def test_what_is_counted_is_told_in_one_or_many_and_with_separators(number: int, told: str) -> None:
    assert count(number, "dock") == told


@pytest.mark.parametrize(("number", "told"), [(1, "1 dock waits"), (1234, "1,234 docks wait")])
def test_words_whose_plural_is_another_are_told_both(number: int, told: str) -> None:
    assert count(number, "dock waits", "docks wait") == told
