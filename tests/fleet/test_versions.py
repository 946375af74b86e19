"""Firmware versions: one form, one order."""

import pytest

from fleet import versions


@pytest.mark.parametrize(
    "text", ["10.01.3205", "10.01.32.05", "v10.01.3205", "V10.01.32.05", " 10.01.3205 "]
)
def test_one_version_has_one_form(text: str) -> None:
    assert versions.canonical(text) == "10.01.3205"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.00.223",
        "10.1.3205",
        "10.01.320",
        "10.01.32051",
        "10.01.3205a",
        "\u0661\u0660.01.3205",
        "10.01.32.05.01",
    ],
)
def test_what_is_no_version_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(versions.InvalidVersion, match=r"expected NN\.NN\.NNNN"):
        versions.canonical(text)


def test_versions_sort_by_number() -> None:
    ordered = ["01.06.1704", "09.02.0108", "10.01.1607", "10.01.3205", "17.07.0401"]
    assert sorted(ordered, key=versions.number) == ordered  # type: ignore[arg-type]


def test_what_is_no_version_has_no_number() -> None:
    assert versions.number("latest") is None
