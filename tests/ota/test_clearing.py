"""A blocker that clears is noticed with the next tick, by what cleared it and not by looking at all."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet import telemetry
from fleet.models import Device
from mqtt_bridge import pipeline, router
from ota.models import UpgradeTask
from ota.upgrades import issue
from tests.make import envelope, make_aircraft, make_dock, make_listening, make_task, received

pytestmark = pytest.mark.django_db


# What holds a dock back, by its column, and the osd that says that it does not any more.
CLEARING: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("busy", {"mode_code": 4}, {"mode_code": 0}),
    ("flight_task", {"flighttask_step_code": 1}, {"flighttask_step_code": 5}),
    ("emergency_stop", {"emergency_stop_state": 1}, {"emergency_stop_state": 0}),
    ("4g_enhanced", {"link_workmode": 1}, {"wireless_link": {"link_workmode": 0}}),
    ("aircraft_out", {"drone_in_dock": 0}, {"drone_in_dock": 1}),
    ("low_battery", {"battery_percent": 20}, {"drone_charge_state": {"capacity_percent": 21}}),
    ("not_paired", {"sub_device_paired": 0}, {"sub_device": {"device_paired": 1}}),
    (
        "storage_full",
        {"storage_total": 1000, "storage_used": 1000},
        {"storage": {"total": 1000, "used": 10}},
    ),
]


@pytest.fixture(autouse=True)
def listening() -> None:
    router.discover()
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


@pytest.mark.parametrize(("code", "before", "after"), CLEARING, ids=[row[0] for row in CLEARING])
def test_what_a_dock_says_is_over_holds_it_back_no_longer(
    code: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    dock = make_dock(**before)
    task = make_task(dock, aircraft=make_aircraft(dock, presence="offline"))
    assert waits_for(task) == [code]
    pipeline.process([received(f"thing/product/{dock.sn}/osd", envelope(after))])
    assert waits_for(task) == []
