"""A blocker that clears is noticed with the next tick, by what cleared it and not by looking at all."""

import datetime as dt

import pytest
from django.utils import timezone

from fleet import telemetry
from fleet.models import Device
from ota.models import UpgradeTask
from ota.upgrades import issue
from tests.make import make_aircraft, make_dock, make_listening, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def listening() -> None:
    make_listening()


def waits_for(task: UpgradeTask) -> list[str]:
    issue.look_again(timezone.now())
    task.refresh_from_db()
    return [reason["code"] for reason in task.waits_for]


def test_an_aircraft_that_falls_silent_holds_its_dock_back_no_longer() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock, mode_code=5)
    task = make_task(dock)
    assert waits_for(task) == ["aircraft_busy"]
    long_ago = timezone.now() - dt.timedelta(minutes=5)
    Device.objects.filter(pk=aircraft.pk).update(last_seen_at=long_ago)
    telemetry.mark_silent(timezone.now())
    assert waits_for(task) == []
