"""Each benchmark runs, small. Only what does not depend on the machine is looked at."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.__main__ import TOPICS
from tests.processes import ROOT

pytestmark = [
    pytest.mark.services,
    pytest.mark.usefixtures("uncounted"),
    pytest.mark.timeout(900),
]


def small(topic: str) -> list[dict[str, Any]]:
    """Its results. A process of its own, because it opens a database of its own."""
    command = [sys.executable, "-m", "benchmarks", topic, "--small", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("topic", TOPICS)
def test_a_benchmark_runs_small(topic: str) -> None:
    found = small(topic)
    assert found
    assert {result["topic"] for result in found} == {topic}
