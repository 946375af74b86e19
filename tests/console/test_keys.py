"""Keys of many rows in a form."""

import pytest

from console.keys import read, written


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([], ""),
        ([7], "7"),
        ([9, 7, 8], "7-2"),
        ([1, 2, 3, 10, 12, 13], "1-2,7,2-1"),
    ],
)
def test_keys_are_read_as_they_were_written(keys: list[int], text: str) -> None:
    assert written(keys) == text
    assert list(read(text, newest=1000)) == sorted(keys)


def test_keys_behind_the_newest_are_none() -> None:
    assert list(read("1-999999999999,5", newest=3)) == [1, 2, 3]


@pytest.mark.parametrize("text", ["abc", "-", ",", "1-abc,²", "9" * 5000])
def test_what_is_no_key_is_passed_by(text: str) -> None:
    assert set(read(text, newest=3)) <= {1}
