"""Workers that issue at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.db import connections
from django.utils import timezone

from ota.models import UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from ota.upgrades import issue
from tests.make import make_rollout, make_task

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("willing_broker")]


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two workers meet that have both counted what is in flight; else the one goes on alone."""
    barrier, move = threading.Barrier(2), UpgradeTaskQuerySet.move

    def met(*values: object, **named: object) -> object:
        with suppress(threading.BrokenBarrierError):
            barrier.wait(1)
        return move(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(UpgradeTaskQuerySet, "move", met)


@pytest.mark.usefixtures("meeting")
def test_together_they_keep_the_limit_of_a_rollout() -> None:
    rollout = make_rollout(limit_in_flight=1)
    tasks = [make_task(rollout=rollout, is_ready=True) for _ in range(2)]

    def work(task: UpgradeTask) -> None:
        try:
            issue.issue([task.pk], timezone.now())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as workers:
        list(workers.map(work, tasks))
    assert UpgradeTask.objects.filter(status=TaskStatus.SENT).count() == 1
