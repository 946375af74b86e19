"""What commands answer while something around them fails, each in a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ota.models import Rollout
from tests.make import make_rollout
from tests.processes import ROOT

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True)]

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """That of a shell beside the test's database, in which nothing else is."""
    nowhere = "redis://127.0.0.1:1/0"
    return {"DATABASE_URL": database_url, "REDIS_URL": nowhere, "SECRET_KEY": "only for this test"}


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def call(environment: dict[str, str], *arguments: str, **streams: Any) -> Done:
    """Runs a command to its end; what it writes is kept unless a stream of its own is given."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=os.environ | environment, text=True, check=False, timeout=60, **streams,
    )  # fmt: skip


# Redis


def test_a_redis_that_takes_connections_and_says_nothing_keeps_nobody_waiting(
    environment: dict[str, str], silent: int
) -> None:
    rollout = make_rollout(status=Rollout.Status.PAUSED)
    environment["REDIS_URL"] = f"redis://127.0.0.1:{silent}/0"
    done = call(environment, "rollout", str(rollout.pk), "resume", "--json")
    assert (done.returncode, json.loads(done.stdout)["changed"]) == (0, True)
    assert done.stderr.count("so it takes effect later") == 1


def test_whatever_keeps_the_workers_from_being_woken_is_one_line(
    environment: dict[str, str],
) -> None:
    rollout = make_rollout(status=Rollout.Status.PAUSED)
    environment["REDIS_URL"] = "rediss://127.0.0.1:1/0?ssl_cert_reqs=nonsense"
    done = call(environment, "rollout", str(rollout.pk), "resume", "--json")
    assert (done.returncode, json.loads(done.stdout)["changed"]) == (0, True)
    assert len(done.stderr.splitlines()) == 1
    assert "so it takes effect later" in done.stderr
