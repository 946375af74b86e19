"""What a batch costs does not grow with the number of its messages."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks import load
from mqtt_bridge import pipeline, router
from mqtt_bridge.line import Received
from ota.models import TaskEvent
from ota.states import TaskStatus
from tests.make import make_aircraft, make_dock, make_rollout, make_task

pytestmark = pytest.mark.django_db(transaction=True)
EXECUTEMANY = " times: "


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


def statements(messages: list[load.Message]) -> list[str]:
    """The first word of each statement of a batch, besides those of the transaction."""
    now = str(int(timezone.now().timestamp() * 1000)).encode()
    batch = [
        pipeline.read(
            Received(topic, payload.replace(load.STAMP.encode(), now), timezone.now(), 1, 1, 1)
        )
        for topic, payload in messages
    ]
    with CaptureQueriesContext(connection) as queries:
        pipeline.process(batch)
    found = [one["sql"].partition(EXECUTEMANY)[2] or one["sql"] for one in queries.captured_queries]
    return [words[0] for sql in found if (words := sql.split())[0] not in {"BEGIN", "COMMIT"}]


@pytest.mark.parametrize(("tasks", "messages"), [(1, 1), (3, 40)])
def test_progress_costs_three_statements_a_batch(tasks: int, messages: int) -> None:
    rollout = make_rollout()
    made = [make_task(status=TaskStatus.IN_PROGRESS, rollout=rollout) for _ in range(tasks)]
    docks = [(task.gateway.sn, task.bid) for task in made]
    found = statements(load.progress(docks, messages, stamped=False))
    # SQLite cannot tell which rows of many were new, and looks before; PostgreSQL tells in a "WITH".
    insert = ["SELECT", "INSERT"] if connection.vendor == "sqlite" else ["WITH"]
    assert found == ["SELECT", *insert, "UPDATE"]
    assert TaskEvent.objects.filter(is_late=False).count() == messages


@pytest.mark.parametrize("number", [1, 5])
def test_telemetry_that_repeats_itself_costs_no_statement(number: int) -> None:
    docks = [make_dock() for _ in range(number)]
    pairs = [(dock.sn, make_aircraft(dock).sn) for dock in docks]
    messages = load.telemetry(pairs, number * 4)
    assert len(statements(messages)) == 3
    assert statements(messages) == []
