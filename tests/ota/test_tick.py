"""The tick as a whole: what it costs, and that two at once do no harm."""

import datetime as dt
from typing import Any

import pytest
import redis
from django.db import OperationalError, connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from database import bulk
from demo import ports
from fleet.models import Device, DeviceModel, Organization, Site
from ota import tasks
from ota.models import UpgradeTarget, UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue, judging
from tests.make import (
    NEW,
    OLD,
    make_dock,
    make_listening,
    make_model,
    make_organization,
    make_package,
    make_rollout,
    make_task,
)
from tests.servers import Server

pytestmark = pytest.mark.django_db

ZONES = ("Europe/Zurich", "America/Denver", "Asia/Tokyo")
HOURS = ("", "daily 22:00-05:00", "Mon-Fri 08:00-18:00")


def make_many(number: int) -> None:
    """Rollouts with different hours, and so many busy docks in several zones that wait for them."""
    organization, model, package = make_organization(), make_model("3-2-0"), make_package()
    sites = [
        Site.objects.create(organization=organization, name=zone, time_zone=zone) for zone in ZONES
    ]
    docks = [_dock(number, organization, model, sites[number % 3]) for number in range(number)]
    Device.objects.bulk_create(docks)
    for place, hours in enumerate(HOURS):
        rollout = make_rollout(windows=hours)
        mine = Device.objects.order_by("sn")[place::3]
        fields: dict[str, Any] = {"rollout": rollout, "wave": rollout.wave_set.get()}
        UpgradeTask.objects.bulk_create(
            UpgradeTask(gateway=dock, status_at=timezone.now(), **fields) for dock in mine
        )
    wanted = {"package": package, "from_version": OLD, "to_version": NEW}
    UpgradeTarget.objects.bulk_create(
        UpgradeTarget(task=task, device_id=task.gateway_id, upgrade_type="regular", **wanted)
        for task in UpgradeTask.objects.all()
    )
    # What PostgreSQL last saw may be tables that another test had left empty: it would plan for minutes.
    bulk.refresh_statistics(Device, UpgradeTask, UpgradeTarget)


def _dock(number: int, organization: Organization, model: DeviceModel, site: Site) -> Device:
    return Device(
        sn=f"7CTDM{number:09d}",
        organization=organization,
        bound_at=timezone.now(),
        model=model,
        site=site,
        presence=Device.Presence.ONLINE,
        last_seen_at=timezone.now(),
        mode_code=4,
        firmware_version=OLD,
        firmware_number=10011607,
    )


def queries() -> int:
    with CaptureQueriesContext(connection) as found:
        tasks.tick(timezone.now())
    return len(found)


def costs(number: int) -> list[int]:
    """Queries of a tick that looks at all, at least at as many as it may, and of one that looks at none."""
    make_listening()
    make_many(number)
    queries()
    UpgradeTask.objects.update(checked_at=None)
    first = queries()
    UpgradeTask.objects.update(
        checked_at=timezone.now(), due_at=timezone.now() + judging.LOOK_ANYWAY
    )
    return [first, queries()]


@pytest.mark.parametrize("number", [9, 1500])
def test_a_tick_takes_as_many_queries_for_thousands_of_waiting_tasks_as_for_few(
    number: int,
) -> None:
    assert costs(number) == [34, 18]


def test_a_tick_looks_at_so_many_and_the_next_ones_at_the_rest() -> None:
    make_listening()
    make_many(issue.LOOK_AT_MOST + 30)
    unseen = UpgradeTask.objects.filter(checked_at=None)
    tasks.tick(timezone.now())
    assert unseen.count() == 30
    tasks.tick(timezone.now())
    assert not unseen.exists()
    assert not UpgradeTask.objects.filter(waits_for=[]).exists()


def test_limits_of_time_are_judged_for_thousands_at_once() -> None:
    make_listening()
    make_many(1100)
    UpgradeTask.objects.update(status=TaskStatus.SENT, attempt=1, sent_at=timezone.now())
    assert tasks.tick(timezone.now()) == []


def make_unjudgeable() -> UpgradeTask:
    """A task whose rollout starts when the clock of its site has no time for it any more."""
    organization = make_organization()
    site = Site.objects.create(organization=organization, name="Tokyo", time_zone="Asia/Tokyo")
    rollout = make_rollout(starts_at=dt.datetime(9999, 12, 31, 23, 59, tzinfo=dt.UTC))
    return make_task(make_dock(organization=organization, site=site), rollout=rollout)


def test_a_task_that_cannot_be_judged_holds_back_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_listening()
    before, bad, after = make_task(), make_unjudgeable(), make_task()
    assert set(tasks.tick(timezone.now())) == {before.pk, after.pk}
    bad.refresh_from_db()
    assert [reason["code"] for reason in bad.waits_for] == ["not_judged"]
    assert f"task {bad.pk} of {bad.gateway.sn} cannot be judged" in caplog.text
    assert issue.issue([bad.pk], timezone.now()) == 0


def test_a_database_that_is_away_is_no_fault_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(waiting: QuerySet[UpgradeTask]) -> list[judging.Case]:
        raise OperationalError("the connection is lost")

    make_listening()
    task = make_task()
    monkeypatch.setattr(judging, "_read", read)
    with pytest.raises(OperationalError):
        issue.look_again(timezone.now())
    task.refresh_from_db()
    assert task.waits_for == []


# Two at once


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    found: list[list[int]] = []
    monkeypatch.setattr(tasks.issue, "delay", found.append)
    return found


@pytest.mark.services
def test_while_a_tick_is_under_way_another_one_does_nothing(
    redis_server: Server, enqueued: list[list[int]]
) -> None:
    make_listening()
    task = make_task()
    with tasks._lease() as is_ours:
        assert is_ours
        tasks.advance()
        assert enqueued == []
    tasks.advance()
    assert enqueued == [[task.pk]]


@pytest.mark.services
def test_a_tick_whose_worker_was_killed_holds_the_next_ones_back_for_a_moment(
    redis_server: Server,
) -> None:
    lock = tasks._redis(redis_server.url).lock("ota.advance", tasks.LEASE)
    assert lock.acquire(blocking=False)
    left = redis.Redis.from_url(redis_server.url).ttl("ota.advance")
    assert 0 < left <= tasks.LEASE


@pytest.mark.services
def test_a_tick_that_took_longer_than_its_lease_leaves_the_next_ones_alone(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    with tasks._lease():
        client.set("ota.advance", "of the next tick")
    assert client.get("ota.advance") == b"of the next tick"
    assert "not its own any more" in caplog.text


def test_without_redis_ticks_go_on_without_their_lock(
    settings: Settings, enqueued: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{ports.free()}/0"
    make_listening()
    task = make_task()
    tasks.advance()
    assert enqueued == [[task.pk]]
    assert "without their lock" in caplog.text
