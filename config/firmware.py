"""Hands firmware to docks, for uvicorn: no login and no cookies, the signed link is the key.

Only packages in a folder come from here; those in a bucket the docks fetch from there.
"""

import asyncio
import functools
import logging
import os
import re
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

# Django has to be set up before models are imported.
from channels.db import database_sync_to_async  # noqa: E402
from django.db import DatabaseError, InterfaceError  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import FileResponse, PlainTextResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from ota import delivery  # noqa: E402
from ota.delivery import BadLink, Download, LinkExpired  # noqa: E402
from ota.models import FirmwarePackage, UpgradeTarget  # noqa: E402
from ota.states import PackageState, TaskStatus  # noqa: E402

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"/firmware/[^/]+/")
GRACE = 5.0  # s that files under way have when the process is to end

_RANGE = r"(?:\d{1,18}-\d{0,18}|-\d{1,18})"
_RANGES = re.compile(rf"bytes=\s*{_RANGE}(?:\s*,\s*{_RANGE})*\s*", re.ASCII | re.IGNORECASE)


class Allowed(NamedTuple):
    """The file that a link leads to."""

    path: Path
    package: FirmwarePackage
    stat: os.stat_result


class Forbidden(Exception):
    """The link is genuine, but what it was for has been called off."""


class Missing(Exception):
    """The package's file is not in our folder, or is not what was stored."""


async def healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def firmware(request: Request) -> Response:
    """The zip that a link leads to, or the part of it that ``Range`` asks for."""
    try:
        allowed = await _find(delivery.read_link(request.path_params["token"]))
    except LinkExpired:
        return PlainTextResponse("This link has expired.\n", 410)
    except (BadLink, Forbidden):
        return PlainTextResponse("This link is not valid.\n", 403)
    except Missing:
        return PlainTextResponse("This package's file is missing.\n", 404)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the database does not answer: %s", error)
        return PlainTextResponse("Try again soon.\n", 503, {"Retry-After": "10"})
    _ignore_malformed_range(request)
    return _response(allowed)


@database_sync_to_async
def _find(download: Download) -> Allowed:
    """Looks the link's task and package up.

    Raises:
        Forbidden: the task was canceled, the package withdrawn, or they have nothing in common.
        Missing: there is no such file any more.
    """
    targets = UpgradeTarget.objects.filter(task=download.task_id, package=download.package_id)
    target = targets.select_related("task", "package").first()
    if target is None or target.task.status == TaskStatus.CANCELED:
        raise Forbidden
    if target.package.state != PackageState.AVAILABLE:
        raise Forbidden
    return _file(target.package)


def _file(package: FirmwarePackage) -> Allowed:
    try:
        path = Path(package.file.path)
        stat = path.stat()
    except (OSError, NotImplementedError) as error:  # the latter: the storage is a bucket
        logger.error("the file of %s cannot be read: %s", package, error)  # noqa: TRY400
        raise Missing from error
    if stat.st_size != package.size:
        logger.error("%s has %d bytes, not %d", path, stat.st_size, package.size)
        raise Missing
    return Allowed(path, package, stat)


def _response(allowed: Allowed) -> FileResponse:
    return FileResponse(
        allowed.path,
        media_type="application/zip",
        filename=allowed.package.file_name,
        stat_result=allowed.stat,
        headers={"ETag": f'"{allowed.package.sha256}"', "X-Content-Type-Options": "nosniff"},
    )


def _ignore_malformed_range(request: Request) -> None:
    """HTTP (RFC 9110, 14.2) wants it passed by: the answer is the whole file. Starlette says 400."""
    if not _is_well_formed(request.headers.get("range", "")):
        headers = request.scope["headers"]
        request.scope["headers"] = [pair for pair in headers if pair[0] != b"range"]


def _is_well_formed(ranges: str) -> bool:
    if not _RANGES.fullmatch(ranges):
        return False
    return all(int(start) <= int(end) for start, end in re.findall(r"(\d+)-(\d+)", ranges))


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    """Logs without tokens, and an end in time: uvicorn would wait until the slowest dock has all.

    What is broken off the dock asks for later, from where it was.
    """
    logging.getLogger("uvicorn.access").addFilter(_mask_token)
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            _hurry_after(number, loop)
    yield


def _mask_token(record: logging.LogRecord) -> bool:
    """Whoever reads a log must not be able to fetch what it names."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            _TOKEN.sub("/firmware/***/", each) if isinstance(each, str) else each
            for each in record.args
        )
    return True


def _hurry_after(number: signal.Signals, loop: asyncio.AbstractEventLoop) -> None:
    uvicorns = signal.getsignal(number)

    def end(received: int, frame: FrameType | None) -> None:
        if callable(uvicorns):
            uvicorns(received, frame)
            # A second Ctrl+C is how uvicorn is told not to wait any longer.
            hurry = functools.partial(uvicorns, signal.SIGINT, None)
            loop.call_soon_threadsafe(loop.call_later, GRACE, hurry)

    signal.signal(number, end)


application = Starlette(
    routes=[Route("/healthz", healthz), Route("/firmware/{token}/{name}", firmware)],
    lifespan=_lifespan,
)
# A slash too many is a wrong address, too: docks may not be redirected.
application.router.redirect_slashes = False
