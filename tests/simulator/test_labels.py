"""What a dock finds out about a package before it installs it."""

import io
import zipfile

import pytest

from simulator import labels
from simulator.labels import End, UnfitError
from tests.simulator.server import package

VERSION = "10.01.3206"
DOCK, AIRCRAFT = "3-2-0", "0-91-1"


def end_of(content: bytes, piece: int = 10_000) -> End:
    end = End(len(content))
    for start in range(0, len(content), piece):
        end.add(start, content[start : start + piece])
    return end


def with_entry(name: str) -> End:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, "signature")
    return end_of(file.getvalue())


def refusal(end: End, model_key: str = DOCK) -> int:
    with pytest.raises(UnfitError) as caught:
        labels.check(end, model_key, VERSION)
    return caught.value.code


@pytest.mark.parametrize(("series", "model_key"), [("DOCK2", DOCK), ("M3D", AIRCRAFT)])
def test_a_package_with_the_devices_product_and_the_commands_version_fits(
    series: str, model_key: str
) -> None:
    assert len(package(series, VERSION)) > labels.KEPT
    labels.check(end_of(package(series, VERSION)), model_key, VERSION)


def test_a_package_of_another_product_is_no_valid_one() -> None:
    assert refusal(end_of(package("M3D", VERSION)), DOCK) == 312003
    assert refusal(end_of(package("DOCK2", VERSION)), AIRCRAFT) == 312003


def test_a_package_of_another_version_fails_the_check_of_versions() -> None:
    assert refusal(end_of(package("DOCK2", "10.01.3207"))) == 312017


@pytest.mark.parametrize(
    "name",
    [
        "wm9s2_0000_v10.01.3206_20241107.pro.cfg.sig",
        "wm9s2_0000_V10.01.32.06_20241107.pro.cfg.sig",
        "wm9s2_10.01.3206_20241107.cfg.sig",
        "another_0000_v10.01.3206_20241107.pro.cfg.sig",
    ],
)
def test_versions_are_read_in_every_spelling_and_of_products_that_nobody_simulates(
    name: str,
) -> None:
    labels.check(with_entry(name), DOCK, VERSION)


@pytest.mark.parametrize(
    "name",
    [
        "readme.txt",
        "wm9s2_0000_20241107.pro.cfg.sig",
        "folder/wm9s2_0000_v10.01.3206_20241107.pro.cfg.sig",
    ],
)
def test_a_zip_that_does_not_say_in_its_root_what_it_is_is_no_valid_package(name: str) -> None:
    assert refusal(with_entry(name)) == 312003


@pytest.mark.parametrize(
    "content", [b"", b"no zip" * 20_000, package("DOCK2", VERSION)[:-100]], ids=len
)
def test_what_is_no_whole_zip_cannot_be_unpacked(content: bytes) -> None:
    assert refusal(end_of(content)) == 312026


def test_a_directory_that_is_longer_than_what_a_dock_keeps_cannot_be_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for number in range(1000):
            made.writestr(f"{number:0100d}", b"")
    assert refusal(end_of(file.getvalue())) == 312026
