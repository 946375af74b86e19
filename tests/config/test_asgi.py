"""The console's process, as daphne loads it."""

import os
import subprocess
import sys

from tests.processes import ROOT


def test_collecting_garbage_passes_by_what_has_been_loaded() -> None:
    code = "import gc, config.asgi; print(gc.get_freeze_count(), len(gc.get_objects()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"SECRET_KEY": "x"},
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    passed_by, looked_at = map(int, done.stdout.split())
    assert passed_by > 10 * looked_at
