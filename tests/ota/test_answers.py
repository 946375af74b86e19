"""What commands answer while something around them fails, each in a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from ota.models import Rollout
from tests.make import make_dock, make_listening, make_package, make_rollout, make_task
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


def test_a_redis_that_refuses_connections_is_told_as_such(environment: dict[str, str]) -> None:
    rollout = make_rollout(status=Rollout.Status.PAUSED)
    done = call(environment, "rollout", str(rollout.pk), "resume", "--json")
    (line,) = [line for line in done.stderr.splitlines() if "so it takes effect later" in line]
    assert "Connection refused" in line


def test_whatever_keeps_the_workers_from_being_woken_is_one_line(
    environment: dict[str, str],
) -> None:
    rollout = make_rollout(status=Rollout.Status.PAUSED)
    environment["REDIS_URL"] = "rediss://127.0.0.1:1/0?ssl_cert_reqs=nonsense"
    done = call(environment, "rollout", str(rollout.pk), "resume", "--json")
    assert (done.returncode, json.loads(done.stdout)["changed"]) == (0, True)
    # The thread that tells the pages may have said so too before the command ended.
    (line,) = [line for line in done.stderr.splitlines() if " ota.live:" not in line]
    assert "so it takes effect later" in line


# Standard output


@pytest.fixture
def full() -> Iterator[IO[bytes]]:
    """A disk that has no room."""
    with Path("/dev/full").open("wb") as file:
        yield file


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_answer_for_which_there_is_no_room_does_not_hide_which_rollout_was_started(
    environment: dict[str, str], full: IO[bytes], form: list[str]
) -> None:
    make_listening()
    make_package()
    make_dock()
    done = call(environment, "start_upgrade", "--all", *form, stdout=full)
    said = done.stderr.splitlines()[-1]
    started = f"Rollout {Rollout.objects.get().pk} was started."
    told = f"{started} The answer could not be written: No space left on device."
    assert (done.returncode, said) == (1, f"CommandError: {told} What was done stays done.")
    assert "Traceback" not in done.stderr


def test_an_answer_for_which_there_is_no_room_does_not_hide_which_clone_was_started(
    environment: dict[str, str], full: IO[bytes]
) -> None:
    make_listening()
    make_package()
    task = make_task(make_dock())
    first = task.rollout
    make_dock(organization=task.gateway.organization)
    done = call(environment, "rollout", str(first.pk), "clone", stdout=full)
    made = Rollout.objects.exclude(pk=first.pk).get()
    assert done.returncode == 1
    assert f"Rollout {made.pk} was started. The answer could not be written" in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_verb_whose_output_is_closed_ends_in_words(
    environment: dict[str, str], form: list[str]
) -> None:
    rollout = make_rollout()
    command = [sys.executable, "manage.py", "rollout", str(rollout.pk), "pause", *form]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command],
        cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Paused: nothing more is issued" in done.stderr
    assert "The answer could not be written: standard output is closed." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_that_nobody_reads_ends_in_words(environment: dict[str, str], unread: int) -> None:
    done = call(environment, "fleet_status", stdout=unread)
    assert (done.returncode, done.stderr) == (
        1,
        "CommandError: The answer was not read to its end.\n",
    )


def test_letters_that_a_terminal_does_not_have_are_written_another_way(
    environment: dict[str, str],
) -> None:
    rollout = make_rollout(name="Nächtens")
    environment["PYTHONIOENCODING"] = "ascii"
    done = call(environment, "upgrade_status", str(rollout.pk))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Rollout {rollout.pk}, N\\xe4chtens: running" in done.stdout


def test_a_database_without_tables_says_how_to_make_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["DATABASE_URL"] = f"sqlite:///{tmp_path}/empty.sqlite3"
    done = call(environment, "fleet_status")
    assert done.returncode == 1
    assert done.stderr.endswith("If it has no tables yet, run python manage.py migrate.\n")
