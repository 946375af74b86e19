"""Which bytes of a file an answer has: all of them, one range, or several (RFC 9110, section 14)."""

import re
import secrets
from itertools import chain
from typing import NamedTuple

# More than these are no download: the answer is the whole file, as RFC 9110, 14.2 allows. So no
# request costs more than the file once, and the heads of these parts.
MOST = 100

_RANGE = r"(?:\d{1,18}-\d{0,18}|-\d{1,18})"
_RANGES = re.compile(rf"bytes=\s*{_RANGE}(?:\s*,\s*{_RANGE})*\s*", re.ASCII | re.IGNORECASE)
_ONE = re.compile(r"(\d*)-(\d*)", re.ASCII)


class NotSatisfiable(Exception):
    """All that was asked for lies behind the end of the file."""


class Part(NamedTuple):
    """Bytes of the file from ``start`` up to ``stop``, and what comes before them in the answer."""

    start: int
    stop: int
    head: bytes = b""


class Body(NamedTuple):
    """What an answer consists of: its status, the headers that belong to it, the parts and the end."""

    status: int
    headers: dict[str, str]
    parts: list[Part]
    tail: bytes = b""

    @property
    def stop(self) -> int:
        """Where in the file the answer ends."""
        return self.parts[-1].stop

    @property
    def size(self) -> int:
        """Bytes of the file in it."""
        return sum(part.stop - part.start for part in self.parts)


def body(wanted: str, size: int, media_type: str) -> Body:
    """The answer for a ``Range`` header (empty: none) and a file of so many bytes.

    Raises:
        NotSatisfiable: no byte that it asks for exists.
    """
    parts = _parts(wanted, size)
    if parts is None:
        headers = {"Content-Length": str(size), "Content-Type": media_type}
        return Body(200, headers, [Part(0, size)])
    if len(parts) > 1:
        return _multipart(parts, size, media_type)
    start, stop, _ = parts[0]
    headers = {"Content-Length": str(stop - start), "Content-Type": media_type}
    return Body(206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, parts)


def _parts(wanted: str, size: int) -> list[Part] | None:
    """The ranges in order, those that touch as one; None for the whole file.

    A range that makes no sense is passed by, as 14.2 wants it, and so are too many.
    """
    if wanted.count(",") >= MOST or not _RANGES.fullmatch(wanted):
        return None
    pairs: list[tuple[str, str]] = _ONE.findall(wanted.partition("=")[2])
    if any(first and last and int(first) > int(last) for first, last in pairs):
        return None
    found = sorted(part for pair in pairs if (part := _part(pair, size)))
    if not found:
        raise NotSatisfiable
    return _merged(found)


def _part(pair: tuple[str, str], size: int) -> Part | None:
    """``first-last``, ``first-`` or ``-number from the end``; None where the file has no such byte."""
    first, last = pair
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    return Part(start, stop) if start < stop else None


def _merged(parts: list[Part]) -> list[Part]:
    found = parts[:1]
    for part in parts[1:]:
        if part.start <= found[-1].stop:
            found[-1] = Part(found[-1].start, max(found[-1].stop, part.stop))
        else:
            found.append(part)
    return found


def _multipart(parts: list[Part], size: int, media_type: str) -> Body:
    boundary = secrets.token_hex(16)
    found, lead = [], ""
    for start, stop, _ in parts:
        lines = f"Content-Type: {media_type}\r\nContent-Range: bytes {start}-{stop - 1}/{size}"
        found.append(Part(start, stop, f"{lead}--{boundary}\r\n{lines}\r\n\r\n".encode()))
        lead = "\r\n"
    tail = f"\r\n--{boundary}--\r\n".encode()
    texts = chain((part.head for part in found), [tail])
    length = sum(part.stop - part.start for part in found) + sum(map(len, texts))
    kind = f"multipart/byteranges; boundary={boundary}"
    return Body(206, {"Content-Length": str(length), "Content-Type": kind}, found, tail)
