"""Fetches a package over HTTP as a dock on a poor link does: in pieces, resuming after each cut."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import httpx

from simulator.clock import Clock
from simulator.labels import End

log = logging.getLogger(__name__)

PIECE = 4 * 1024 * 1024
UNAVAILABLE = 312002
DAMAGED = 312003
# Failures in a row, none of which brought a byte, before a dock gives up.
PATIENCE = 8
LONGEST_PAUSE = 30.0  # simulated seconds
# How often in a row a server may ask a dock to come back later.
MOST_WAITS = 200
LONGEST_WAIT = 120.0  # real seconds: the server's clock is not compressed
_GONE = frozenset({401, 403, 404, 410})


class Parcel(Protocol):
    """What is to be fetched: `file_size` in bytes, `md5` as 32 lower-case hexadecimal digits."""

    @property
    def file_url(self) -> str: ...
    @property
    def file_size(self) -> int: ...
    @property
    def md5(self) -> str: ...


class DownloadFailedError(Exception):
    """The package cannot be had; `code` is the device's result code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class _CutError(Exception):
    """The transfer ended early; try again from where it stopped."""


class _BusyError(Exception):
    """The server asks to come back after so many real seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy for {seconds:g} s")
        self.seconds = seconds


@dataclass(frozen=True)
class Line:
    """The dock's way out: its HTTP client, real bytes per second (None: no limit), bytes per Range request."""

    http: httpx.AsyncClient
    clock: Clock
    rate: int | None = None
    piece: int = PIECE


def new_client() -> httpx.AsyncClient:
    """Return a client that a thousand docks may share: no limit of connections, no waiting for one.

    Redirects are not followed: nothing documents that a dock would.
    """
    # At INFO httpx logs whole addresses, and a signed address is a key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(timeout=httpx.Timeout(30, pool=None), limits=limits)


async def fetch(line: Line, parcel: Parcel, on_bytes: Callable[[int], None]) -> End:
    """Download `parcel`, check size and md5, and return its end. `on_bytes` is told the length of each chunk.

    Raises DownloadFailedError: UNAVAILABLE when the link is refused or silent for too long, DAMAGED when size or
    md5 differ from what the command said.
    """
    transfer = _Transfer(line, parcel, on_bytes)
    failures = waits = 0
    while not transfer.is_complete:
        before = transfer.offset
        try:
            await transfer.next_piece()
            waits = 0
        except _BusyError as busy:
            waits += 1
            if waits > MOST_WAITS:
                raise DownloadFailedError(UNAVAILABLE, f"gave up at byte {before}") from busy
            await asyncio.sleep(min(LONGEST_WAIT, busy.seconds))
        except (_CutError, httpx.TransportError) as error:
            failures = 1 if transfer.offset > before else failures + 1
            if failures > PATIENCE:
                raise DownloadFailedError(UNAVAILABLE, f"gave up at byte {before}") from error
            await line.clock.sleep(min(LONGEST_PAUSE, 2.0 ** (failures - 1)))
    transfer.check()
    return transfer.end


class _Transfer:
    def __init__(self, line: Line, parcel: Parcel, on_bytes: Callable[[int], None]) -> None:
        self._line = line
        self._parcel = parcel
        self._on_bytes = on_bytes
        self._is_announced = False
        self._begin()

    def _begin(self) -> None:
        self.offset = 0
        self.end = End(self._parcel.file_size)
        self._digest = hashlib.md5(usedforsecurity=False)

    @property
    def is_complete(self) -> bool:
        return self._is_announced and self.offset >= self._parcel.file_size

    async def next_piece(self) -> None:
        """Ask for the next piece, after a HEAD at first. Raises _CutError when less arrives."""
        if not self._is_announced:
            await self._announce()
        last = min(self.offset + self._line.piece, self._parcel.file_size) - 1
        wanted = last + 1
        headers = {"Range": f"bytes={self.offset}-{last}", "Accept-Encoding": "identity"}
        async with self._line.http.stream("GET", self._parcel.file_url, headers=headers) as answer:
            self._accept(answer)
            await self._read(answer)
        if self.offset < wanted:
            raise _CutError

    def check(self) -> None:
        """Raises DownloadFailedError when the bytes are not those that were promised."""
        if self.offset != self._parcel.file_size:
            raise DownloadFailedError(
                DAMAGED, f"{self.offset} bytes instead of {self._parcel.file_size}"
            )
        if self._digest.hexdigest() != self._parcel.md5:
            raise DownloadFailedError(DAMAGED, "md5 differs")

    async def _announce(self) -> None:
        answer = await self._line.http.head(self._parcel.file_url)
        # An address that was signed for GET may refuse HEAD; whether it is good, GET will tell.
        if answer.is_success:
            length = answer.headers.get("Content-Length")
            if length is not None and length != str(self._parcel.file_size):
                raise DownloadFailedError(
                    DAMAGED, f"size {length} instead of {self._parcel.file_size}"
                )
        self._is_announced = True

    def _accept(self, answer: httpx.Response) -> None:
        _check_status(answer)
        if answer.status_code == 200 and self.offset:
            # A server without ranges starts anew, and so does all that comes of the bytes.
            self._on_bytes(-self.offset)
            self._begin()

    async def _read(self, answer: httpx.Response) -> None:
        async for chunk in answer.aiter_raw():
            self._digest.update(chunk)
            self.end.add(self.offset, chunk)
            self.offset += len(chunk)
            self._on_bytes(len(chunk))
            if self.offset > self._parcel.file_size:
                return
            if self._line.rate:
                await asyncio.sleep(len(chunk) / self._line.rate)


def _check_status(answer: httpx.Response) -> None:
    if answer.status_code in _GONE or answer.is_redirect:
        raise DownloadFailedError(UNAVAILABLE, f"the server says {answer.status_code}")
    wait = answer.headers.get("Retry-After", "")
    if answer.status_code == 503 and wait.isdecimal():
        raise _BusyError(float(wait))
    if not answer.is_success:
        raise _CutError
