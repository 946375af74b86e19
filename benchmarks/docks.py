"""Cheap clients for the delivery benchmark: they fetch in ranges, lose the line and go on."""

import asyncio
import hashlib
import random
import socket
import time
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

RANGE = 16_000_000  # bytes
BUFFER = 256 * 1024
CUTS = 0.25  # of the requests


class Job(NamedTuple):
    """What a client fetches: ``rate`` in bytes a second (0: as fast as it can), for ``seconds`` at most."""

    url: str
    size: int
    rate: int
    seed: int
    seconds: float


class Outcome(NamedTuple):
    """How far a client came, in which time, and the md5 of what it has."""

    got: int
    md5: str
    seconds: float
    cuts: int


def fetch(jobs: list[Job]) -> list[Outcome]:
    """Fetches all of them at once, in this process."""
    return asyncio.run(_fetch(jobs))


async def _fetch(jobs: list[Job]) -> list[Outcome]:
    return await asyncio.gather(*(_Dock(job).fetch() for job in jobs))


class _Dock:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._random = random.Random(job.seed)  # noqa: S311 (chooses where the line breaks)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._buffer = memoryview(bytearray(BUFFER if not job.rate or job.rate > 200_000 else 8192))
        self._got = self._cuts = 0
        self._line: socket.socket | None = None

    async def fetch(self) -> Outcome:
        self._began = time.monotonic()
        until = self._began + self._job.seconds
        while self._got < self._job.size and time.monotonic() < until:
            await self._fetch_range(until)
        if self._line:
            self._line.close()
        return Outcome(self._got, self._md5.hexdigest(), time.monotonic() - self._began, self._cuts)

    async def _fetch_range(self, until: float) -> None:
        last = min(self._got + RANGE, self._job.size) - 1
        wanted = last + 1 - self._got
        is_cut = self._random.random() < CUTS
        take = self._random.randrange(1, wanted + 1) if is_cut else wanted
        head, body = await self._ask(self._got, last)
        status = int(head.split(b" ", 2)[1])
        if status != 206:
            raise RuntimeError(f"{self._job.url} answers {head!r}")
        self._took(body[:take])
        take -= len(body[:take])
        while take and time.monotonic() < until:
            take -= await self._receive(take)
        if is_cut or take:
            self._cuts += 1
            self._hang_up()

    async def _ask(self, first: int, last: int) -> tuple[bytes, bytes]:
        """The head of the answer, and what came with it of the body."""
        parts = urlsplit(self._job.url)
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
        request = "\r\n".join([*lines, f"Range: bytes={first}-{last}", "", ""]).encode()
        if self._line:
            # A server gives up a connection on which it waited for us: who is slow still reads
            # from the kernel what the server was done with long ago.
            with suppress(ConnectionError):
                return await self._exchange(self._line, request)
            self._hang_up()
        return await self._exchange(await self._connect(), request)

    async def _connect(self) -> socket.socket:
        parts, loop = urlsplit(self._job.url), asyncio.get_running_loop()
        self._line = socket.socket()
        if self._job.rate:  # what the kernel takes in for us must not hide how slow we are
            self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._line.setblocking(False)
        await loop.sock_connect(self._line, (parts.hostname, parts.port))
        return self._line

    async def _exchange(self, line: socket.socket, request: bytes) -> tuple[bytes, bytes]:
        loop, head = asyncio.get_running_loop(), b""
        await loop.sock_sendall(line, request)
        while b"\r\n\r\n" not in head:
            found = await loop.sock_recv(line, 4096)
            if not found:
                raise ConnectionError(f"no answer: {head!r}")
            head += found
        head, _, body = head.partition(b"\r\n\r\n")
        return head, body

    async def _receive(self, most: int) -> int:
        assert self._line  # noqa: S101
        loop = asyncio.get_running_loop()
        size = await loop.sock_recv_into(self._line, self._buffer[:most])
        if not size:
            raise ConnectionError(f"cut off at byte {self._got} of {self._job.url}")
        self._took(self._buffer[:size])
        if self._job.rate:
            ahead = self._got / self._job.rate - (time.monotonic() - self._began)
            if ahead > 0.02:
                await asyncio.sleep(ahead)
        return size

    def _took(self, data: bytes | memoryview) -> None:
        self._md5.update(data)
        self._got += len(data)

    def _hang_up(self) -> None:
        assert self._line  # noqa: S101
        self._line.close()
        self._line = None
