"""Random operators, docks, kills and clocks over a real database: what must hold, holds after each step.

``MODEL_EXAMPLES=200`` makes it run longer, with other examples each time; after a failure hypothesis
prints how to repeat it. ``-s`` shows how many steps there were.
"""

import os
import sys

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from mqtt_bridge import router
from tests.ota.model import machine
from tests.ota.model.machine import Model
from tests.ota.model.parallel import Parallel

pytestmark = [
    pytest.mark.services,
    pytest.mark.everywhere,
    pytest.mark.usefixtures("uncounted"),
    pytest.mark.timeout(4 * 60 * 60 if "MODEL_EXAMPLES" in os.environ else 1200),
]

EXAMPLES, STEPS = int(os.environ.get("MODEL_EXAMPLES", "4")), 60
FEW_STEPS = 20  # where each takes connections of its own


def run(model: type[Model], examples: int, steps: int = STEPS) -> None:
    router.discover()
    machine.COUNTED.clear()
    chosen = hypothesis_settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        # The same examples each time; with MODEL_EXAMPLES set, others.
        derandomize="MODEL_EXAMPLES" not in os.environ,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(model, settings=chosen)
    sys.stdout.write(f"\n{model.__name__}: {dict(machine.COUNTED)}\n")


@pytest.mark.django_db
def test_whatever_happens_no_promise_is_broken_and_everything_ends() -> None:
    run(Model, EXAMPLES)


@pytest.mark.django_db(transaction=True)
def test_workers_that_really_work_at_once_break_no_promise() -> None:
    run(Parallel, max(1, EXAMPLES // 4), FEW_STEPS)
