"""Each benchmark runs, small. Only what does not depend on the machine is looked at: what was counted."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from benchmarks.__main__ import KNOWN
from benchmarks.results import Result
from tests.processes import ROOT

pytestmark = [
    pytest.mark.services,
    pytest.mark.usefixtures("uncounted"),
    pytest.mark.timeout(900),
]


def small(topic: str) -> list[Result]:
    """Its results. A process of its own, because it opens a database of its own."""
    command = [sys.executable, "-m", "benchmarks", topic, "--small", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [Result(**one) for one in json.loads(done.stdout)]


def notes(found: Sequence[Result], pattern: str) -> list[int]:
    """The number of each note of this form."""
    return [int(words[1]) for one in found if (words := re.search(pattern, one.note))]


def browsers(found: Sequence[Result]) -> None:
    """What changed came to browsers: the age of a change is a number, and frames came."""
    by_name = {one.what: one.ours for one in found}
    assert 0 < by_name["age of a change in the browser, p99"] < 60_000
    assert by_name["frames a second, of the browser that got most"] > 0
    peers = {one.what: one.peer_name for one in found if one.peer_name}
    assert list(peers.values()) == ["each sent on"]
    assert all("40 updates a second" in what for what in peers)


def command(found: Sequence[Result]) -> None:
    (confirmed,) = (one for one in found if one.what.startswith("commands that the broker"))
    assert (confirmed.ours, confirmed.peer) == (60, 60)


def delivery(found: Sequence[Result]) -> None:
    assert notes(found, r"all bytes right at (\d+) clients") == [2 * 3, 2 * 8]
    (counted,) = (one for one in found if one.what == "counted to the tasks")
    assert counted.peer
    assert counted.ours >= counted.peer


def history(found: Sequence[Result]) -> None:
    (size,) = (one.ours for one in found if one.unit == "bytes")
    assert 200 < size < 500


def ingest(found: Sequence[Result]) -> None:
    """That each message came and left one line is looked at where it runs."""
    assert [one.peer_name for one in found] == ["bare paho"] * 2
    batches = notes(found, r"(\d+) messages a batch")
    assert len(batches) == 2
    assert all(10 < size <= 400 for size in batches)


def launch(found: Sequence[Result]) -> None:
    """The peers take six queries a dock to look and four more to save, ours a number for all."""
    counts = [(one.ours, one.peer) for one in found if one.unit == "queries"]
    assert [peer for _, peer in counts] == [20 * 6 + 1, 20 * 10 + 3]
    assert all(ours <= 25 for ours, _ in counts)


def pages(found: Sequence[Result]) -> None:
    queries = notes(found, r"^(\d+) queries$")
    assert len(queries) >= 10
    assert all(0 < number <= 35 for number in queries)
    assert notes(found, r"^(\d+) devices, and 10 of few rows$") == [20]


def soak(found: Sequence[Result]) -> None:
    by_name = {one.what: one.ours for one in found}
    names = ("upgrades planned", "upgrades at docks", "ok at docks", "proven")
    assert [by_name[name] for name in names] == [9] * 4
    assert by_name["effects that were lost or doubled"] == 0, found[0].note
    assert by_name["reports of docks"] > 9


def tick(found: Sequence[Result]) -> None:
    busy, idle = notes(found, r"^(\d+) queries$")
    assert 10 <= idle <= 20
    assert idle < busy <= 60  # nothing is called off, which would cost some for each


def upload(found: Sequence[Result]) -> None:
    assert found[0].note == "md5 and sha256 right, cut 2 times; the form: md5 right"


COUNTED: dict[str, Callable[[Sequence[Result]], None]] = {
    "browsers": browsers,
    "command": command,
    "delivery": delivery,
    "history": history,
    "ingest": ingest,
    "launch": launch,
    "pages": pages,
    "soak": soak,
    "tick": tick,
    "upload": upload,
}


@pytest.mark.parametrize("topic", KNOWN)
def test_a_benchmark_runs_small_and_counts_what_it_should(topic: str) -> None:
    found = small(topic)
    assert {result.topic for result in found} == {topic}
    COUNTED[topic](found)
