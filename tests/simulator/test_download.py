"""Downloads over real HTTP: pieces, cuts, refusals."""

from typing import Any

import msgspec
import pytest

from simulator.clock import Clock
from simulator.download import PATIENCE, DownloadFailedError, Line, fetch, new_client
from simulator.orders import Target
from tests.simulator.server import FileServer, file_server

CONTENT = bytes(range(256)) * 400


async def download(files: FileServer, **changes: Any) -> list[int]:
    chunks: list[int] = []
    async with new_client() as http:
        line = Line(http, Clock(1000), piece=40_000)
        target = msgspec.convert(files.holding(CONTENT, "A1", "10.01.3206", **changes), Target)
        await fetch(line, target, chunks.append)
    return chunks


async def test_a_file_comes_in_pieces() -> None:
    async with file_server() as files:
        assert sum(await download(files)) == len(CONTENT)
        assert [head.split()[0] for head in files.requests] == ["HEAD", "GET", "GET", "GET"]


async def test_a_cut_file_goes_on_where_it_stopped() -> None:
    async with file_server() as files:
        files.cuts = 3
        assert sum(await download(files)) == len(CONTENT)
        assert "bytes=20000-59999" in files.requests[2]


async def test_a_dock_that_is_asked_to_come_back_does_so_for_as_long_as_it_takes() -> None:
    async with file_server() as files:
        files.busy = 3 * PATIENCE
        assert sum(await download(files)) == len(CONTENT)


async def test_an_address_that_refuses_head_is_asked_with_get() -> None:
    async with file_server() as files:
        files.refuses_head = True
        assert sum(await download(files)) == len(CONTENT)


async def test_a_server_without_ranges_starts_anew() -> None:
    async with file_server() as files:
        files.ignores_ranges = True
        files.cuts = 1
        assert sum(await download(files)) == len(CONTENT)


@pytest.mark.parametrize(
    ("status", "code"), [(403, 312002), (404, 312002), (410, 312002), (302, 312002), (500, 312002)]
)
async def test_a_refused_link_is_unavailable(status: int, code: int) -> None:
    async with file_server() as files:
        files.status = status
        with pytest.raises(DownloadFailedError) as caught:
            await download(files)
    assert caught.value.code == code


@pytest.mark.parametrize("change", [{"md5": "0" * 32}, {"file_size": 7}])
async def test_a_file_that_is_not_the_promised_one_is_damaged(change: dict[str, Any]) -> None:
    async with file_server() as files:
        with pytest.raises(DownloadFailedError) as caught:
            await download(files, **change)
    assert caught.value.code == 312003
