"""A simulated dock fetches through whatever link it is given, and goes on after a cut."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pytest_django import Settings

from demo import ports
from ota import delivery
from ota.models import Download, FirmwarePackage
from ota.states import TaskStatus
from simulator.clock import Clock
from simulator.download import Line, fetch, new_client
from tests import servers
from tests.cable import Cable
from tests.fetching import CONTENT, address_of, store
from tests.make import make_task
from tests.ota.test_nginx import configuration
from tests.processes import Processes, Running, eventually

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True)]

LARGE = bytes(range(256)) * 80_000  # 20 MB
Route = Callable[[bytes], str]


@dataclass(frozen=True)
class Parcel:
    """What the command tells the dock."""

    file_url: str
    content: bytes

    @property
    def file_size(self) -> int:
        return len(self.content)

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


@pytest.fixture
def uvicorn(processes: Processes) -> Route:
    processes.firmware()
    return address_of


@pytest.fixture
def nginx(processes: Processes, settings: Settings, tmp_path: Path) -> Iterator[Route]:
    processes.firmware(FIRMWARE_ACCEL_PREFIX="/protected/")
    (tmp_path / "nginx").mkdir()
    locations = configuration(tmp_path / "media", processes.firmware_port)
    server = servers.nginx(tmp_path / "nginx", locations).start()
    settings.FIRMWARE_URL = server.url
    yield address_of
    server.end()


@pytest.fixture
def moto(bucket: str) -> Route:
    return link_to_bucket


def link_to_bucket(content: bytes) -> str:
    package = store(content)
    return delivery.link(make_task(status=TaskStatus.SENT).pk, package)


async def fetch_over_cuts(cable: Cable, parcel: Parcel) -> int:
    """Fetches, and cuts the line once a third is there, and once more at two thirds."""
    cuts, got = [parcel.file_size * 2 // 3, parcel.file_size // 3], 0

    def took(size: int) -> None:
        nonlocal got
        got += size
        if cuts and got > cuts[-1]:
            cuts.pop()
            cable.cut()

    async with new_client() as http:
        await fetch(Line(http, Clock(100), piece=9_000_000), parcel, took)
    return got


@pytest.mark.parametrize("kind", ["uvicorn", "nginx", "moto"])
def test_a_dock_has_the_package_after_two_cuts(kind: str, request: pytest.FixtureRequest) -> None:
    route: Route = request.getfixturevalue(kind)
    link = route(LARGE)
    port = urlsplit(link).port
    assert port
    with Cable(port) as cable:
        through = link.replace(f"http://{ports.HOST}:{port}", cable.url)
        assert asyncio.run(fetch_over_cuts(cable, Parcel(through, LARGE))) == len(LARGE)
        assert cable.cuts_made == 2


async def fetch_over_a_kill(running: Running, parcel: Parcel) -> list[int]:
    """Fetches, and kills the server once a third is there."""
    chunks: list[int] = []
    has_third = asyncio.Event()

    def took(size: int) -> None:
        chunks.append(size)
        if sum(chunks) > parcel.file_size // 3:
            has_third.set()

    async with new_client() as http:
        line = Line(http, Clock(1), rate=20_000_000, piece=5_000_000)
        fetching = asyncio.create_task(fetch(line, parcel, took))
        await has_third.wait()
        await asyncio.to_thread(running.kill9)
        await asyncio.to_thread(running.start)
        await fetching
    return chunks


def test_a_dock_goes_on_after_the_server_was_killed(processes: Processes) -> None:
    running = processes.firmware()
    address = address_of(LARGE)
    chunks = asyncio.run(fetch_over_a_kill(running, Parcel(address, LARGE)))
    assert sum(chunks) == len(LARGE)
    running.terminate()
    found = Download.objects.get()
    assert found.last_offset == len(LARGE)
    # What the killed process had not written within its last second is all that may be missing.
    assert found.bytes_served <= len(LARGE) + 2_000_000


# Redirects to the bucket, where the owner allows them.


@pytest.fixture
def redirecting(bucket: str, processes: Processes, settings: Settings) -> str:
    settings.FIRMWARE_S3_REDIRECT = True
    processes.firmware(FIRMWARE_S3_REDIRECT="1")
    return bucket


def test_a_redirect_leads_to_the_bucket_and_is_counted(redirecting: str) -> None:
    address = address_of()
    assert address.startswith("http://127.0.0.1")
    assert "/firmware/" in address
    answer = httpx.get(address, headers={"Range": "bytes=10-19"})
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(f"{redirecting}/fleet/library/firmware/")
    assert "set-cookie" not in answer.headers
    there = httpx.get(address, headers={"Range": "bytes=10-19"}, follow_redirects=True)
    assert (there.status_code, there.content) == (206, CONTENT[10:20])
    eventually(lambda: Download.objects.filter(requests=2).exists(), "both requests")
    assert Download.objects.get().last_offset == 20


def test_a_redirect_ends_with_its_package(redirecting: str) -> None:
    address = address_of()
    FirmwarePackage.objects.update(state="withdrawn")
    assert httpx.get(address).status_code == 403
