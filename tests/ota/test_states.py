"""Which status follows which, and the one write that changes it."""

import pytest
from django.utils import timezone

from ota import states
from ota.models import UpgradeTask
from ota.states import TaskStatus
from tests.make import make_rollout, make_task


@pytest.mark.parametrize("end", sorted(states.TERMINAL))
def test_nothing_follows_an_end(end: TaskStatus) -> None:
    assert all(end not in states.sources(target) for target in TaskStatus)


@pytest.mark.parametrize("end", sorted(states.TERMINAL))
def test_every_open_status_can_end_in_every_way(end: TaskStatus) -> None:
    assert set(states.sources(end)) == states.OPEN


@pytest.mark.django_db
def test_a_move_is_written_with_its_line_of_history() -> None:
    task = make_task()
    assert UpgradeTask.objects.move([task.pk], TaskStatus.SENT, timezone.now(), "why") == [task.pk]
    event = task.events.get()
    assert (event.from_status, event.to_status, event.text) == ("pending", "sent", "why")


@pytest.mark.django_db
def test_a_move_that_is_not_allowed_changes_nothing() -> None:
    task = make_task(status=TaskStatus.OK)
    assert UpgradeTask.objects.move([task.pk], TaskStatus.SENT, timezone.now()) == []
    assert not task.events.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("number", [2, 40])
def test_moving_many_tasks_takes_as_many_queries_as_moving_one(
    number: int, django_assert_num_queries: object
) -> None:
    rollout = make_rollout()
    pks = [make_task(rollout=rollout).pk for _ in range(number)]
    with django_assert_num_queries(5):  # type: ignore[operator]  # a savepoint and its release
        UpgradeTask.objects.move(pks, TaskStatus.SENT, timezone.now())
