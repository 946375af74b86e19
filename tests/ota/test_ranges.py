"""Parts of a package: what a dock asks for, and what it gets."""

import tracemalloc

import pytest

from ota.models import FirmwarePackage
from ota.states import TaskStatus
from tests.fetching import CONTENT, ask, path_of, store
from tests.make import make_task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def package() -> FirmwarePackage:
    return store()


@pytest.fixture
def path(package: FirmwarePackage) -> str:
    return path_of(make_task(status=TaskStatus.SENT, version=package.version), package)


@pytest.mark.parametrize(
    ("wanted", "part", "told"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/200000"),
        ("bytes=100-", slice(100, None), "bytes 100-199999/200000"),
        ("bytes=-1", slice(-1, None), "bytes 199999-199999/200000"),
        ("bytes=-999999", slice(0, None), "bytes 0-199999/200000"),
        ("bytes=199990-999999", slice(199990, None), "bytes 199990-199999/200000"),
        ("bytes=0-,5-", slice(0, None), "bytes 0-199999/200000"),
        ("BYTES=5-5", slice(5, 6), "bytes 5-5/200000"),
    ],
)
def test_a_range_gives_a_part(path: str, wanted: str, part: slice, told: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 206
    assert answer.content == CONTENT[part]
    assert answer.headers["content-range"] == told
    assert answer.headers["content-length"] == str(len(answer.content))


def test_several_ranges_give_several_parts(path: str) -> None:
    answer = ask(path, range="bytes=0-1, 100-101")
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert b"bytes 0-1/200000\r\n\r\n" + CONTENT[:2] in answer.content
    assert b"bytes 100-101/200000\r\n\r\n" + CONTENT[100:102] in answer.content


@pytest.mark.parametrize("wanted", ["bytes=200000-", "bytes=999999-9999999", "bytes=-0"])
def test_a_range_behind_the_end_is_not_satisfiable(path: str, wanted: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */200000"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-1",
        "bytes=a-b",
        "bytes=",
        "bytes=-",
        "bytes",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=" + "9" * 5000 + "-",
        "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 20_000, 2)),
    ],
)
def test_a_range_that_makes_no_sense_gives_the_whole(path: str, wanted: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.status_code == 200
    assert len(answer.content) == len(CONTENT)


def test_a_range_goes_on_only_while_the_content_is_the_same(
    path: str, package: FirmwarePackage
) -> None:
    same, other = f'"{package.sha256}"', '"something else"'
    assert ask(path, range="bytes=5-9", if_range=same).status_code == 206
    assert ask(path, range="bytes=5-9", if_range=other).status_code == 200


def test_a_range_goes_on_by_the_date_too(path: str) -> None:
    same, other = ask(path).headers["last-modified"], "Mon, 01 Jan 2024 00:00:00 GMT"
    assert ask(path, range="bytes=5-9", if_range=same).status_code == 206
    assert ask(path, range="bytes=5-9", if_range=other).status_code == 200


def test_a_weak_tag_does_not_let_a_range_go_on(path: str, package: FirmwarePackage) -> None:
    weak = f'W/"{package.sha256}"'
    assert ask(path, range="bytes=5-9", if_range=weak).status_code == 200


def test_head_has_no_range(path: str) -> None:
    answer = ask(path, "HEAD", range="bytes=0-9")
    assert (answer.status_code, answer.headers["content-length"]) == (200, "200000")


def test_what_lies_behind_the_end_is_left_out_of_several(path: str) -> None:
    answer = ask(path, range="bytes=0-1,200000-,-0")
    assert (answer.status_code, answer.content) == (206, CONTENT[:2])


@pytest.mark.parametrize("wanted", ["bytes=0-1,100-101", "bytes=-5,0-0,7-9,100-199"])
def test_the_length_of_several_parts_is_told(path: str, wanted: str) -> None:
    answer = ask(path, range=wanted)
    assert answer.headers["content-length"] == str(len(answer.content))


def test_a_hundred_ranges_over_the_whole_cost_the_whole_once(path: str) -> None:
    wanted = "bytes=" + ",".join("0-" for _ in range(100))
    answer = ask(path, range=wanted)
    assert (answer.status_code, answer.content) == (206, CONTENT)


def test_ten_thousand_ranges_are_answered_with_little_memory(path: str) -> None:
    many = "bytes=" + ",".join(f"{start}-{start}" for start in range(10_000))
    tracemalloc.start()
    try:
        answer = ask(path, range=many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200
    assert peak < 20 * len(CONTENT)
