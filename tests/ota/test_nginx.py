"""nginx sends the bytes: the configuration of docs/deploy.md, as it stands there."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ota.models import Download, UpgradeTask
from ota.states import TaskStatus
from tests import servers
from tests.fetching import CONTENT, address_of
from tests.processes import ROOT, Processes, eventually
from tests.servers import Server

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True)]

LIMIT = {"FIRMWARE_BYTES_PER_SECOND": "2000000", "FIRMWARE_DOWNLOADS": "4"}


def configuration(media: Path, port: int) -> str:
    """The locations that the documentation names, with this test's addresses."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    found = re.search(r"```nginx\n(location /firmware/.*?)```", text, re.DOTALL)
    assert found
    lines = found[1].replace("/var/lib/fleet-ota/media", str(media))
    return lines.replace("127.0.0.1:8001", f"127.0.0.1:{port}")


@pytest.fixture
def nginx(processes: Processes, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "nginx").mkdir()
    locations = configuration(tmp_path / "media", processes.firmware_port)
    server = servers.nginx(tmp_path / "nginx", locations).start()
    yield server
    server.end()


@pytest.fixture
def address(nginx: Server, processes: Processes) -> str:
    """A link as docks get it, through nginx."""
    processes.firmware(FIRMWARE_ACCEL_PREFIX="/protected/")
    return through(nginx, address_of())


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def through(nginx: Server, link: str) -> str:
    return nginx.url + link[link.index("/firmware/") :]


def test_the_whole_comes_with_its_headers(address: str) -> None:
    answer = httpx.get(address)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''M3D")
    assert not {"set-cookie", "x-accel-redirect", "location"} & set(answer.headers)
    assert answer.headers["etag"]
    assert answer.headers["last-modified"]


def test_a_download_in_pieces_is_whole(address: str) -> None:
    found = b""
    with httpx.Client() as client:
        for start in range(0, len(CONTENT), 30_000):
            wanted = {"Range": f"bytes={start}-{start + 29_999}"}
            answer = client.get(address, headers=wanted)
            assert answer.status_code == 206
            found += answer.content
    assert md5(found) == md5(CONTENT)


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ("bytes=-1", 206, "bytes 199999-199999/200000"),
        ("bytes=199990-", 206, "bytes 199990-199999/200000"),
        ("bytes=200000-", 416, "bytes */200000"),
    ],
)
def test_ranges_are_those_that_we_give(address: str, wanted: str, status: int, told: str) -> None:
    answer = httpx.get(address, headers={"Range": wanted})
    assert (answer.status_code, answer.headers["content-range"]) == (status, told)


def test_several_ranges_come_as_several_parts(address: str) -> None:
    answer = httpx.get(address, headers={"Range": "bytes=0-1,100-101"})
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert CONTENT[100:102] in answer.content


def test_a_range_goes_on_only_while_the_file_is_the_same(address: str) -> None:
    tag = httpx.head(address).headers["etag"]
    for condition, status in ((tag, 206), ('"another"', 200)):
        headers = {"Range": "bytes=5-9", "If-Range": condition}
        assert httpx.get(address, headers=headers).status_code == status


def test_head_tells_the_length(address: str) -> None:
    answer = httpx.head(address)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "200000")


def test_a_refusal_stays_one(address: str) -> None:
    UpgradeTask.objects.update(status=TaskStatus.CANCELED)
    assert httpx.get(address).status_code == 403
    assert httpx.get(address.replace("/firmware/", "/firmware/x")).status_code == 403


@pytest.mark.parametrize("path", ["/protected/", "/protected/firmware/", "/media/"])
def test_the_files_cannot_be_reached_without_a_link(address: str, nginx: Server, path: str) -> None:
    package = UpgradeTask.objects.get().targets.get().package
    name = str(package.file.name).rpartition("/")[2]
    assert httpx.get(f"{nginx.url}{path}{name}").status_code == 404


def test_what_was_asked_for_is_counted(address: str) -> None:
    httpx.get(address, headers={"Range": "bytes=0-99"})
    httpx.get(address, headers={"Range": "bytes=100-"})
    httpx.head(address)
    eventually(lambda: Download.objects.filter(requests=2).exists(), "both requests")
    found = Download.objects.get()
    assert (found.bytes_served, found.last_offset, found.rate) == (200_000, 200_000, None)


def test_a_connection_gets_its_share_of_the_rate(nginx: Server, processes: Processes) -> None:
    processes.environment |= LIMIT
    processes.firmware(FIRMWARE_ACCEL_PREFIX="/protected/")
    answer = httpx.get(through(nginx, address_of(bytes(1_000_000))))
    assert len(answer.content) == 1_000_000
    assert 1 < answer.elapsed.total_seconds() < 6
