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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
# The browser's driver keeps an event loop in this thread.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

import django

django.setup()

from django.core.management import call_command
from django.db import connections
from rich.console import Console
from rich.table import Table

from config import env
from demo import checks, ports
from ota.models import FirmwarePackage, ProductCode
from simulator.packages import build
from tests.browser import PASSWORD, chromium, log_in
from tests.cable import Cable
from tests.make import make_model
from tests.people import make_person
from tests.processes import Running

CUTS = (0.3, 0.7)  # of the file's size
_PIECE = 1 << 20
_BOUNDARY = b"no-zip-has-this-inside"
# The peer takes 13 times its file in memory: 2 GB would take the machine down.
_PEERS_MOST = 0.1


class Figure(NamedTuple):
    """``growth``: how much more memory at the peak than before, bytes."""

    size: int
    seconds: float
    growth: int
    outcome: str


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
        before, started = _memory(web.pid, "VmRSS"), time.perf_counter()
        page.set_input_files("#upload-file", path)
        page.wait_for_selector("#upload-here", state="visible", timeout=3_600_000)
        seconds = time.perf_counter() - started
        growth = _memory(web.pid, "VmHWM") - before
        page.click("#package-add")
        page.wait_for_url("**/change/")
        made = cable.cuts_made
    package = FirmwarePackage.objects.get()
    is_right = (package.md5, package.sha256) == wanted
    words = "md5 and sha256 right" if is_right else "HASHES ARE WRONG"
    return Figure(size, seconds, growth, f"{words}, cut {made} times")


def one_form(path: Path, wanted: Hashes, web: Running, port: int) -> Figure:
    """The peer: one request with all bytes."""
    size = path.stat().st_size
    head = b"--" + _BOUNDARY + b"\r\nContent-Disposition: form-data; "
    head += b'name="file"; filename="a.zip"\r\n\r\n'
    tail = b"\r\n--" + _BOUNDARY + b"--\r\n"
    before, started = _memory(web.pid, "VmRSS"), time.perf_counter()
    connection = http.client.HTTPConnection(ports.HOST, port)
    connection.putrequest("POST", "/form")
    connection.putheader("Content-Type", b"multipart/form-data; boundary=" + _BOUNDARY)
    connection.putheader("Content-Length", str(len(head) + size + len(tail)))
    connection.endheaders(head)
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            connection.send(data)
    connection.send(tail)
    is_right = connection.getresponse().read().decode() == wanted.md5
    seconds = time.perf_counter() - started
    growth = _memory(web.pid, "VmHWM") - before
    return Figure(size, seconds, growth, "md5 right" if is_right else "HASH IS WRONG")


def _memory(pid: int, name: str) -> int:
    """``VmRSS`` or ``VmHWM`` (the peak) of a process and its children, bytes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(_own_memory(one, name) for one in (str(pid), *children))


def _own_memory(pid: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    value = next(line for line in lines if line.startswith(name))
    return int(value.split()[1]) << 10


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
    del connections["default"]
    connections.settings["default"] = env.database("DATABASE_URL", "", folder)
    connections.settings = connections.configure_settings(connections.settings)
    call_command("migrate", verbosity=0)
    ProductCode.objects.create(code="wm9s2").models.add(make_model("3-2-0"))


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2
    table = Table("upload of", "way", "seconds", "MB/s", "web process grew by", "outcome")
    with tempfile.TemporaryDirectory(prefix="fleet-ota-") as name:
        folder = Path(name)
        _prepare(folder)
        ways: dict[str, tuple[float, str, Callable[..., Figure]]] = {
            "pieces, by a browser": (gigabytes, "config.asgi:application", ours),
            "one form": (min(gigabytes, _PEERS_MOST), "benchmarks.form:application", one_form),
        }
        for way, (most, application, work) in ways.items():
            size = int(most * (1 << 30))
            path = build(folder, "DOCK2", "10.01.3205", dt.date(2024, 11, 7), size)
            wanted = _hashes(path)
            web, port = _daphne(work.__name__, application, folder)
            try:
                figure = work(path, wanted, web, port)
            finally:
                web.end()
            mb = 1 << 20
            table.add_row(
                f"{figure.size / (1 << 30):.1f} GB", way, f"{figure.seconds:.0f}",
                f"{figure.size / mb / figure.seconds:.0f}", f"{figure.growth / mb:.0f} MB",
                figure.outcome,
            )  # fmt: skip
        connections.close_all()
    Console().print(table)


if __name__ == "__main__":
    main()
