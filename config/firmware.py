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
from email.utils import formatdate
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from urllib.parse import quote

import django
from django.apps import apps
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
if not apps.ready:  # where all of it runs already, as in a test, it stays
    # Docks never meet the console, which would take a third of this process's memory.
    settings.INSTALLED_APPS = [
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "database",
        "mqtt_bridge",
        "fleet",
        "ota",
    ]
django.setup()

# Django has to be set up before models are imported.
from channels.db import database_sync_to_async  # noqa: E402
from django.db import DatabaseError, InterfaceError  # noqa: E402
from django.utils import timezone  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import PlainTextResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402
from starlette.types import Receive, Scope, Send  # noqa: E402

from config import pace, ranges  # noqa: E402
from config.ranges import Body, NotSatisfiable  # noqa: E402
from config.sending import FileAnswer  # noqa: E402
from config.tally import tally  # noqa: E402
from ota import delivery, storage  # noqa: E402
from ota.delivery import BadLink, Download, LinkExpired  # noqa: E402
from ota.models import FirmwarePackage, UpgradeTarget  # noqa: E402
from ota.states import PackageState, TaskStatus  # noqa: E402
from ota.storage import FileMissing, StorageAway  # noqa: E402
from ota.upgrades import files  # noqa: E402

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"/firmware/[^/?]+")
GRACE = 5.0  # s that files under way have when the process is to end
ZIP = "application/zip"
# The dock follows at once, and asks here again for what it misses.
REDIRECT_TIME = 3600.0  # s

# After these a dock has no use for the package. ``timeout`` is not among them: we gave up waiting,
# the dock may well be downloading over a slow link. There is no way to stop it, and to refuse it
# the rest would only turn an upgrade that is late into one that failed.
_ENDED = frozenset({TaskStatus.OK, TaskStatus.FAILED, TaskStatus.REJECTED, TaskStatus.CANCELED})


class Allowed(NamedTuple):
    """The file that a link leads to; ``path`` is None where it is in a bucket."""

    download: Download
    package: FirmwarePackage
    path: Path | None
    changed_at: float


class Forbidden(Exception):
    """The link is genuine, but what it was for is over or has been called off."""


class Missing(Exception):
    """The package's file is not in our folder, or is not what was stored."""


class NotNow(Exception):
    """The package's bytes are being checked."""


async def healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


class Firmware:
    """The zip that a link leads to, or the part of it that ``Range`` asks for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        found = await _look_up(request.path_params["token"])
        if isinstance(found, Response):
            await found(scope, receive, send)
        elif found.path is None:
            await _to_bucket(found, request)(scope, receive, send)
        else:
            await _answer(found, found.path, request, send)


async def _look_up(token: str) -> Allowed | Response:
    """What a link leads to, or why it leads nowhere."""
    try:
        return await _find(delivery.read_link(token))
    except LinkExpired:
        return PlainTextResponse("This link has expired.\n", 410)
    except (BadLink, Forbidden):
        return PlainTextResponse("This link is not valid.\n", 403)
    except Missing:
        return PlainTextResponse("This package's file is missing.\n", 404)
    except NotNow:
        return _later("This package is being checked, try again soon.\n", "30")
    except StorageAway as error:
        logger.warning("the storage of the packages does not answer: %s", error)
        return _later("Try again soon.\n", "10")
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the database does not answer: %s", error)
        return _later("Try again soon.\n", "10")


def _later(text: str, seconds: str) -> Response:
    return PlainTextResponse(text, 503, {"Retry-After": seconds})


@database_sync_to_async
def _find(download: Download) -> Allowed:
    """Looks the link's task and package up.

    Raises:
        Forbidden: the task has ended, the package is not offered, or they have nothing in common.
        Missing: there is no such file any more.
        NotNow: it is being checked whether the file is right.
        StorageAway: the folder of the packages cannot be read now.
    """
    targets = UpgradeTarget.objects.filter(task=download.task_id, package=download.package_id)
    target = targets.select_related("task", "package").first()
    if target is None or target.task.status in _ENDED:
        raise Forbidden
    if target.package.state == PackageState.CHECKING:
        raise NotNow
    if target.package.state != PackageState.AVAILABLE:
        raise Forbidden
    if storage.is_folder():
        return _file(download, target.package)
    if not settings.FIRMWARE_S3_REDIRECT:
        raise Missing
    return Allowed(download, target.package, None, 0.0)


def _file(download: Download, package: FirmwarePackage) -> Allowed:
    """Hands out only what is as it was when its bytes were last known to be right."""
    path = storage.path(str(package.file.name))
    try:
        with storage.reached():
            found = storage.stat(str(package.file.name))
            changed_at = path.stat().st_mtime
    except FileMissing as error:
        logger.error("the file of %s cannot be read: %r", package, error)  # noqa: TRY400
        files.look([package], timezone.now())
        raise Missing from error
    if found.size != package.size:
        logger.error("%s has %d bytes, not %d", path, found.size, package.size)
        files.look([package], timezone.now())
        raise Missing
    if package.stamp and found.stamp != package.stamp:
        files.look([package], timezone.now())
        raise NotNow
    return Allowed(download, package, path, changed_at)


def _to_bucket(allowed: Allowed, request: Request) -> Response:
    """Sends the dock on; what it asks for there is known only as it asks here."""
    address = delivery.bucket_link(allowed.package, REDIRECT_TIME)
    try:
        _note(allowed, request, ranges.body(_wanted(request, {}), allowed.package.size, ZIP))
    except NotSatisfiable:
        _note(allowed, request, None)
    return Response(status_code=302, headers={"Location": address, "Cache-Control": "no-store"})


async def _answer(allowed: Allowed, path: Path, request: Request, send: Send) -> None:
    headers = _headers(allowed)
    try:
        body = ranges.body(_wanted(request, headers), allowed.package.size, ZIP)
    except NotSatisfiable:
        _note(allowed, request, None)
        await _beyond_the_end(allowed)(request.scope, request.receive, send)
        return
    if settings.FIRMWARE_ACCEL_PREFIX:
        _note(allowed, request, body)
        await _by_nginx(allowed, headers)(request.scope, request.receive, send)
    elif request.method == "HEAD":
        _note(allowed, request, None)
        response = Response(None, body.status, headers | body.headers)
        await response(request.scope, request.receive, send)
    else:
        await _send_file(allowed, path, request, _Sent(body, headers | body.headers), send)


class _Sent(NamedTuple):
    body: Body
    headers: dict[str, str]


async def _send_file(
    allowed: Allowed, path: Path, request: Request, sent: _Sent, send: Send
) -> None:
    """Sends it from here, if there is a place for one more."""
    download, limits = allowed.download, pace.current()
    who = f"{download.task_id}-{download.package_id}"
    if not await limits.places.enter(who):
        # No try, but the dock has come: nobody has to look for what keeps it away.
        tally.note(download, has_rate=False)
        tally.hurry()
        refusal = _later("Too many downloads at once, try again soon.\n", pace.retry_after())
        await refusal(request.scope, request.receive, send)
        return
    reached = sent.body.parts[0].start
    tally.note(download, requests=1, offset=reached)

    def taken(size: int, offset: int) -> None:
        nonlocal reached
        reached = offset
        tally.note(download, size=size, offset=offset)

    raw = Headers(sent.headers).raw
    try:
        answer = FileAnswer(path, sent.body, raw, limits.bytes, taken)
        await answer(request.scope, request.receive, send)
    finally:
        tally.hurry()
        await limits.places.leave(who, for_good=reached == allowed.package.size)


def _note(allowed: Allowed, request: Request, body: Body | None) -> None:
    """Counts what somebody else sends, as it was asked for. HEAD asks for no bytes: it is no try."""
    if request.method == "HEAD":
        tally.note(allowed.download, has_rate=False)
    elif body is None:
        tally.note(allowed.download, requests=1, has_rate=False)
    else:
        tally.note(allowed.download, requests=1, size=body.size, offset=body.stop, has_rate=False)
    tally.hurry()


def _beyond_the_end(allowed: Allowed) -> Response:
    headers = {"Content-Range": f"bytes */{allowed.package.size}", "Accept-Ranges": "bytes"}
    return PlainTextResponse("This package is not that long.\n", 416, headers)


def _by_nginx(allowed: Allowed, headers: dict[str, str]) -> Response:
    """Has nginx send the file, which knows ranges itself; it must not have our length of it.

    nginx limits a connection and knows nothing of the others, so each gets its share of the rate.
    """
    name = quote(str(allowed.package.file.name))
    headers = headers | {
        "Content-Type": ZIP,
        "X-Accel-Redirect": f"{settings.FIRMWARE_ACCEL_PREFIX}{name}",
    }
    del headers["Accept-Ranges"]  # nginx adds its own
    if settings.FIRMWARE_BYTES_PER_SECOND:
        shares = settings.FIRMWARE_DOWNLOADS or settings.LIMIT_IN_FLIGHT
        share = max(1, settings.FIRMWARE_BYTES_PER_SECOND // shares)
        headers["X-Accel-Limit-Rate"] = str(share)
    return Response(None, 200, headers)


def _headers(allowed: Allowed) -> dict[str, str]:
    # Encoded as RFC 8187 has it, a name can hold anything and stays out of the other headers.
    name = quote(allowed.package.file_name, safe="", errors="replace")
    found = {
        "Accept-Ranges": "bytes",
        "Last-Modified": formatdate(int(allowed.changed_at), usegmt=True),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
    }
    if allowed.package.sha256:
        found["ETag"] = f'"{allowed.package.sha256}"'
    return found


def _wanted(request: Request, headers: dict[str, str]) -> str:
    """The ``Range`` that counts: only a GET has one, and only while ``If-Range`` still holds."""
    condition = request.headers.get("if-range")
    if request.method != "GET":
        return ""
    if condition is not None and condition not in (
        headers.get("ETag"),
        headers.get("Last-Modified"),
    ):
        return ""
    return request.headers.get("range", "")


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
    tally.start()
    try:
        yield
    finally:
        # Also when uvicorn is in a hurry; the loop has nothing else to do by now.
        tally.close()
        await pace.current().close()


def _mask_token(record: logging.LogRecord) -> bool:
    """Whoever reads a log must not be able to fetch what it names."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            _TOKEN.sub("/firmware/***", each) if isinstance(each, str) else each
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
    routes=[
        Route("/healthz", healthz),
        Route("/firmware/{token}/{name}", Firmware(), methods=["GET"]),
    ],
    lifespan=_lifespan,
)
# A slash too many is a wrong address, too: docks may not be redirected.
application.router.redirect_slashes = False
