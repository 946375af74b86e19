"""A package through a real browser into the console: ``python -m benchmarks.upload [GB]``.

Chromium uploads a zip (2 GB unless told otherwise) through daphne, a process of its own, and the
connection is cut twice on the way. The peer is one plain form with a file of at most 0.1 GB,
through daphne too, to a bare Django view that reads it; a larger one fills the memory. Prints how
long each took and by how much the memory of the web process grew. Needs twice the size in the
temporary folder.
"""

import datetime as dt
import hashlib
import http.client
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

# The browser's driver keeps an event loop in this thread.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

from django.db import connections
from rich.console import Console

from benchmarks import ground, machine, results
from benchmarks.results import Result, Size
from demo import checks, ports
from ota.models import FirmwarePackage, ProductCode
from simulator.packages import build
from tests.browser import PASSWORD, chromium, log_in
from tests.cable import Cable
from tests.make import make_model
from tests.people import make_person
from tests.processes import Running

TOPIC = "upload"
CUTS = (0.3, 0.7)  # of the file's size
_PIECE, _GB = 1 << 20, 1 << 30
_BOUNDARY = b"no-zip-has-this-inside"
# The peer takes 13 times its file in memory: 2 GB would take the machine down.
_PEERS_MOST = 0.1


class Figure(NamedTuple):
    """``growth``: how much more memory at the peak than before, MB."""

    size: int
    seconds: float
    growth: float
    outcome: str

    @property
    def rate(self) -> float:
        return self.size / self.seconds / (1 << 20)


class Hashes(NamedTuple):
    md5: str
    sha256: str


def ours(path: Path, wanted: Hashes, web: Running, port: int) -> Figure:
    size = path.stat().st_size
    administrator = make_person("Administrators", password=PASSWORD)
    cuts = [int(size * share) for share in CUTS]
    with Cable(port, cuts=cuts) as cable, chromium() as browser:
        page = browser.new_page()
        log_in(page, cable.url, administrator)
        page.goto(f"{cable.url}/admin/ota/firmwarepackage/add/")
        before, started = machine.memory(web.pid, "VmRSS"), time.perf_counter()
        page.set_input_files("#upload-file", path)
        page.wait_for_selector("#upload-here", state="visible", timeout=3_600_000)
        seconds = time.perf_counter() - started
        growth = machine.memory(web.pid, "VmHWM") - before
        page.click("#package-add")
        page.wait_for_url("**/change/")
        made = cable.cuts_made
    package = FirmwarePackage.objects.get()
    _check((package.md5, package.sha256), wanted)
    return Figure(size, seconds, growth, f"md5 and sha256 right, cut {made} times")


def one_form(path: Path, wanted: Hashes, web: Running, port: int) -> Figure:
    """The peer: one request with all bytes."""
    size = path.stat().st_size
    head = b"--" + _BOUNDARY + b"\r\nContent-Disposition: form-data; "
    head += b'name="file"; filename="a.zip"\r\n\r\n'
    tail = b"\r\n--" + _BOUNDARY + b"--\r\n"
    before, started = machine.memory(web.pid, "VmRSS"), time.perf_counter()
    connection = http.client.HTTPConnection(ports.HOST, port)
    connection.putrequest("POST", "/form")
    connection.putheader("Content-Type", b"multipart/form-data; boundary=" + _BOUNDARY)
    connection.putheader("Content-Length", str(len(head) + size + len(tail)))
    connection.endheaders(head)
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            connection.send(data)
    connection.send(tail)
    found = connection.getresponse().read().decode()
    seconds = time.perf_counter() - started
    growth = machine.memory(web.pid, "VmHWM") - before
    _check((found,), (wanted.md5,))
    return Figure(size, seconds, growth, "md5 right")


def _check(found: tuple[str | None, ...], wanted: tuple[str, ...]) -> None:
    if found != wanted:
        raise RuntimeError(f"the bytes came damaged: {found} is not {wanted}")


def _hashes(path: Path) -> Hashes:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        file.seek(0)
        return Hashes(md5, hashlib.file_digest(file, "sha256").hexdigest())


def _daphne(name: str, application: str, folder: Path) -> tuple[Running, int]:
    port = ports.free()
    command = [sys.executable, "-m", "daphne", "-b", ports.HOST, "-p", str(port), application]

    def answers(_: Running) -> bool:
        return checks.http_answers(f"http://{ports.HOST}:{port}/healthz")

    return Running(name, command, folder / f"{name}.log", answers).start(), port


def _prepare(folder: Path) -> None:
    """An empty database and storage in the folder, for this process and those that it starts."""
    os.environ |= {
        "DATABASE_URL": f"sqlite:///{folder}/fleet.sqlite3",
        "STORAGE_URL": f"file://{folder}/media",
        "SECRET_KEY": "only for this benchmark",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    ground.use(os.environ["DATABASE_URL"])
    ProductCode.objects.create(code="wm9s2").models.add(make_model("3-2-0"))


def run(size: Size) -> Iterable[Result]:
    yield from compared(0.02 if size is Size.SMALL else 2)


def compared(gigabytes: float) -> Iterable[Result]:
    """The pieces of a browser beside one form, once each: the sizes differ, memory is the point."""
    with ground.folder() as folder:
        _prepare(folder)
        piece = _way(folder, gigabytes, "config.asgi:application", ours)
        form = _way(folder, min(gigabytes, _PEERS_MOST), "benchmarks.form:application", one_form)
        connections.close_all()
    what = f"upload of {gigabytes:g} GB by a browser, in pieces"
    peer = f"one form of {form.size / _GB:.2g} GB"
    note = f"{piece.outcome}; the form: {form.outcome}"
    growth = results.ratio([piece.growth], [form.growth], less_is_better=True)
    yield Result(
        TOPIC,
        f"{what}: growth of the web process",
        piece.growth,
        peer,
        form.growth,
        "MB",
        growth,
        "<= 64",
        note,
    )
    rate = results.ratio([piece.rate], [form.rate])
    yield Result(TOPIC, what, piece.rate, peer, form.rate, "MB/s", rate)


def _way(folder: Path, gigabytes: float, application: str, work: Callable[..., Figure]) -> Figure:
    path = build(folder, "DOCK2", "10.01.3205", dt.date(2024, 11, 7), int(gigabytes * _GB))
    wanted = _hashes(path)
    web, port = _daphne(work.__name__, application, folder)
    try:
        return work(path, wanted, web, port)
    finally:
        web.end()


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2
    Console().print(results.table(compared(gigabytes)))


if __name__ == "__main__":
    main()
