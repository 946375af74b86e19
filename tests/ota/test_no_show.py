"""Docks that accepted the command and do not come for the package."""

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from mqtt_bridge.models import BridgeSession
from ota import downloads, status
from ota.downloads import Change
from ota.models import Rollout, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import limits
from tests.make import make_listening, make_task
from tests.people import staff, text

pytestmark = pytest.mark.django_db


def accepted(minutes: float = 11, **fields: Any) -> UpgradeTask:
    """A task whose dock is heard and accepted the command so many minutes ago."""
    now = timezone.now()
    at = now - dt.timedelta(minutes=minutes)
    values: dict[str, Any] = {"status": TaskStatus.SENT, "sent_at": at, "replied_at": at}
    return make_task(**values | {"progress_seen_at": now} | fields)


def tick(task: UpgradeTask) -> bool:
    """Whether the task is flagged after a tick."""
    if not BridgeSession.objects.exists():
        make_listening()
    limits.enforce(timezone.now())
    task.refresh_from_db()
    return task.no_show_at is not None


def come(task: UpgradeTask) -> None:
    now = timezone.now()
    package = task.targets.get().package_id
    downloads.record([Change(task.pk, package, 1, 10, 10, 5, now, now)])


def notes(task: UpgradeTask) -> list[str]:
    found = task.events.filter(kind=TaskEvent.Kind.NOTE).order_by("pk")
    return list(found.values_list("text", flat=True))


def test_a_dock_that_has_not_come_is_flagged_once(settings: Settings) -> None:
    task = accepted()
    assert tick(task)
    assert tick(task)
    (line,) = notes(task)
    assert "more than 10 min ago and has not come for the package" in line
    assert settings.FIRMWARE_URL in line
    assert task.status == TaskStatus.SENT


@pytest.mark.parametrize(
    "fields",
    [
        {"minutes": 9},
        {"replied_at": None},
        {"percent": 1, "status": TaskStatus.IN_PROGRESS},
        {"percent": 0, "step": "upgrade_firmware", "status": TaskStatus.IN_PROGRESS},
        {"status": TaskStatus.PAUSED},
        {"status": TaskStatus.VERIFYING},
        {"status": TaskStatus.FAILED},
    ],
)
def test_a_dock_that_may_yet_come_or_has_no_need_to_is_not(fields: dict[str, Any]) -> None:
    assert not tick(accepted(**fields))


def test_a_dock_that_reports_no_percent_above_zero_is_flagged() -> None:
    status = TaskStatus.IN_PROGRESS
    assert tick(accepted(percent=0, step="download_firmware", status=status))


def test_a_dock_that_comes_is_not_flagged() -> None:
    task = accepted()
    come(task)
    assert not tick(task)


def test_a_dock_that_comes_after_all_is_cleared() -> None:
    task = accepted()
    tick(task)
    come(task)
    assert not tick(task)
    assert notes(task)[-1] == "the dock has come for the package after all"


def test_nothing_is_judged_while_no_bridge_listens() -> None:
    task = accepted()
    limits.enforce(timezone.now())
    BridgeSession.objects.create(
        client_id="new", seen_at=timezone.now(), connected_since=timezone.now()
    )
    assert not tick(task)


def test_docks_that_fetch_from_the_bucket_itself_are_not_missed(settings: Settings) -> None:
    bucket = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "b"}}
    task = accepted()
    settings.STORAGES = settings.STORAGES | {"default": bucket}
    assert not tick(task)
    settings.FIRMWARE_S3_REDIRECT = True
    assert tick(task)


def test_pages_and_scripts_show_it() -> None:
    task = accepted()
    tick(task)
    viewer = staff("view_upgradetask", "view_rollout")
    for name, pk in (("upgradetask", task.pk), ("rollout", task.rollout_id)):
        shown = text(viewer.get(reverse(f"admin:ota_{name}_change", args=[pk])))
        assert "The dock accepted the command more than 10 min ago" in shown
    assert status.of_rollout(Rollout.objects.get())["tasks"][0]["no_show"] is True


def test_a_tick_costs_the_same_for_two_and_for_thirty_of_them() -> None:
    make_listening()

    def cost(number: int) -> int:
        for _ in range(number):
            accepted()
        with CaptureQueriesContext(connection) as found:
            limits.enforce(timezone.now())
        return len(found)

    assert cost(2) == cost(28)
