"""The Celery application, in real workers."""

import pytest

from tests.processes import Processes

pytestmark = pytest.mark.services


def test_workers_do_not_look_for_each_other(processes: Processes) -> None:
    first, second = processes.worker(), processes.worker()
    assert "ready." in second.output
    assert "mingle" not in first.output + second.output
