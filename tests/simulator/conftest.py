"""A broker of the simulator's tests, and a scene with docks around it."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import ports
from simulator.ending import end
from simulator.fleet import Fleet, Options, plan
from simulator.link import Broker
from simulator.memory import Memory
from simulator.moments import Moments
from simulator.specs import DockSpec
from tests.simulator.server import Cloud, FileServer, cloud, file_server

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")


@pytest.fixture(scope="session")
def broker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a broker on a free port of 127.0.0.1."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port = ports.free()
    config = tmp_path_factory.mktemp("broker") / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", config], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(port: int) -> None:
    for _ in range(1200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError("The broker did not start.")


@dataclass
class Scene:
    """A cloud, a file server, a way to let docks in, and what happens to all of them."""

    cloud: Cloud
    files: FileServer
    start: Callable[..., DockSpec]
    moments: Moments


@pytest.fixture
async def scene(broker_port: int, tmp_path: Path) -> AsyncIterator[Scene]:
    """A cloud and one dock at a time: `scene.start(fault, …)` starts it and returns its spec."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(cloud(broker_port))
        files = await stack.enter_async_context(file_server())
        started: list[asyncio.Task[None]] = []
        moments = Moments()

        def start(fault: str | None = None, *, generation: int = 2, **changes: object) -> DockSpec:
            options = {
                "speed": 500.0,
                "reply_timeout": 5.0,
                "organization": "org-1",
                "code": "CODE",
                "piece": 40_000,
            }
            spec = plan(3, {fault: 3} if fault else {})[generation - 1]
            fleet = Fleet(
                [spec],
                Options(Broker("127.0.0.1", broker_port), **(options | changes)),  # type: ignore[arg-type]
                Memory(tmp_path / "state.json"),
            )
            fleet.moments = moments
            started.append(asyncio.create_task(fleet.run()))
            return spec

        yield Scene(server, files, start, moments)
        await end(started)
