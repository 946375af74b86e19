"""The machine under a benchmark: what it is, and how much others used of it meanwhile."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import servers
from tests.processes import group_members

_TICKS = os.sysconf("SC_CLK_TCK")  # in a second, of /proc/stat
_PROGRAMS = {
    "mosquitto": ("mosquitto", "-h"),
    "Redis": ("redis-server", "--version"),
    "nginx": ("nginx", "-v"),
}


def name() -> str:
    """Cores, processor, Python and the servers in one line."""
    cores = os.cpu_count()
    lines = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.+)", lines)
    words = [f"{cores} cores ({model[1] if model else platform.machine()})"]
    words.append(f"Python {platform.python_version()}")
    words += [f"{program} {_version(*call)}" for program, call in _PROGRAMS.items()]
    words.append(f"PostgreSQL {_version(str(servers.postgres_tools() / 'postgres'), '--version')}")
    return ", ".join(words)


def _version(program: str, option: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    try:
        done = subprocess.run(  # noqa: S603 (programs named here)
            [program, option], capture_output=True, text=True, check=False, env={"PATH": path}
        )
    except OSError:
        return "is not installed"
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else "of an unknown version"


class _Used(NamedTuple):
    """Seconds of processor time since the start, by all and by us, and the time on the wall."""

    all: float
    ours: float
    wall: float


def _used() -> _Used:
    user, nice, system, _, _, interrupts, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    ours = os.times()
    by_us = ours.user + ours.system + ours.children_user + ours.children_system
    return _Used((user + nice + system + interrupts + soft) / _TICKS, by_us, time.monotonic())


def watch() -> Callable[[], float]:
    """Starts to look; the returned function tells how many cores others used since, on average.

    What was started meanwhile counts as ours once it has ended and was waited for.
    """
    before = _used()

    def others() -> float:
        after = _used()
        theirs = (after.all - before.all) - (after.ours - before.ours)
        return max(theirs / (after.wall - before.wall), 0.0)

    return others


def memory(pid: int, field: str = "VmHWM") -> float:
    """``VmRSS`` or ``VmHWM`` (the peak) of a process group's members together, MB."""
    texts = [Path(f"/proc/{one}/status").read_text() for one in group_members(pid)]
    found = [int(kb) for text in texts for kb in re.findall(rf"{field}:\s+(\d+) kB", text)]
    return sum(found) * 1024 / 1_000_000


def processor(pid: int) -> float:
    """Seconds of processor time that a process group's members have used."""
    texts = [Path(f"/proc/{one}/stat").read_text() for one in group_members(pid)]
    fields = [text.rpartition(")")[2].split() for text in texts]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS
