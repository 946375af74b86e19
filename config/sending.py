"""A file on its way to a dock: piece by piece, at the pace of the dock and of the limits."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from starlette.types import Message, Receive, Scope, Send

from config.pace import Throttle
from config.ranges import Body, Part

PIECE = 256 * 1024  # bytes
# A dock that takes nothing for so long is gone, whatever its connection says.
STALL = 300.0  # s

Taken = Callable[[int, int], None]


class FileAnswer:
    """Answers with parts of a file.

    ``taken`` is told how many bytes the dock's connection took and up to where in the file that
    leads. A piece counts once the next one may follow: until then it waits in our own memory.
    """

    def __init__(
        self,
        path: Path,
        body: Body,
        headers: list[tuple[bytes, bytes]],
        throttle: Throttle,
        taken: Taken,
    ) -> None:
        self._path = path
        self._body = body
        self._headers = headers
        self._throttle = throttle
        self._taken = taken
        self._reading: asyncio.Future[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ends early when the dock hangs up: uvicorn does not say so to those who send."""
        self._hung_up = asyncio.ensure_future(_hung_up(receive))
        sending = asyncio.ensure_future(self._send_all(send))
        try:
            await asyncio.wait({sending, self._hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            self._hung_up.cancel()
            await asyncio.wait({sending, self._hung_up})
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        file = os.open(self._path, os.O_RDONLY)
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self._body.status,
                    "headers": self._headers,
                }
            )
            for part in self._body.parts:
                if part.head:
                    await _send(send, part.head)
                await self._send_part(file, part, send)
            await _send(send, self._body.tail, more=False)
        finally:
            if self._reading:  # in another thread, which must not find the file closed
                await asyncio.wait({self._reading})
            os.close(file)

    async def _send_part(self, file: int, part: Part, send: Send) -> None:
        offset, most = part.start, self._throttle.piece(PIECE)
        while offset < part.stop:
            size = min(most, part.stop - offset)
            await self._throttle.take(size)
            piece = await self._read(file, size, offset)
            if not piece:
                raise OSError(f"{self._path} is shorter than it was")
            async with asyncio.timeout(STALL):
                await _send(send, piece)
                await _send(send, b"")  # returns once the connection has taken the piece
            # Sending may not have waited for anything: let the other downloads have their turn,
            # and hear of a connection that is gone, which takes all that is sent without a word.
            await asyncio.sleep(0)
            if self._hung_up.done():
                return
            offset += len(piece)
            self._taken(len(piece), offset)

    async def _read(self, file: int, size: int, offset: int) -> bytes:
        """In another thread if a disk or a network may let us wait, and all downloads with us."""
        if _is_cached(file, offset) and _is_cached(file, offset + size - 1):
            return os.pread(file, size, offset)
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, os.pread, file, size, offset)
        return await self._reading


def _is_cached(file: int, offset: int) -> bool:
    """Whether the system has this byte in memory, and its neighbours with it.

    That is the rule: docks fetch the same file at one time. Then a thread costs more than reading.
    """
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):  # it is not, or the file system or the platform cannot tell
        return False


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    message: Message = {"type": "http.response.body", "body": body, "more_body": more}
    await send(message)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
