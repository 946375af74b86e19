"""The Celery application, in real workers."""

import os
import subprocess
import sys

import pytest
from pytest_django import Settings

from tests.processes import ROOT, Processes


@pytest.mark.services
def test_workers_do_not_look_for_each_other(processes: Processes) -> None:
    first, second = processes.worker(), processes.worker()
    assert "ready." in second.output
    assert "mingle" not in first.output + second.output


def test_what_clears_is_looked_at_within_five_seconds(settings: Settings) -> None:
    """Two ticks at most: one that has begun, and the next."""
    assert 2 * settings.CELERY_BEAT_SCHEDULE["advance"]["schedule"] < 5


def test_a_worker_does_without_the_console() -> None:
    code = (
        "import sys; from config.celery import app; app.loader.init_worker(); print(*sys.modules)"
    )
    environment = {name: v for name, v in os.environ.items() if name != "CELERY_SKIP_CHECKS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment | {"SECRET_KEY": "x"},
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "ota.upgrades.issue" in loaded
    assert not loaded & {"config.urls", "ota.admin", "markdown_it"}
