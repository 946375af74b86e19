"""What docks fetch is counted to their tasks, and shown."""

import datetime as dt
import threading
from typing import Any

import httpx
import pytest
import redis
from django.db import DataError, OperationalError, connection
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from config import firmware
from config.tally import Tally
from demo import ports
from ota import downloads
from ota.downloads import Change
from ota.models import Download, FirmwarePackage, UpgradeTask
from ota.states import PackageState, TaskStatus
from tests.fetching import CONTENT, address_of, ask, path_of, store
from tests.make import make_dock, make_package, make_rollout, make_target, make_task
from tests.people import queries, staff, text
from tests.processes import Processes, eventually

pytestmark = pytest.mark.django_db(transaction=True)

MB = 1024 * 1024


@pytest.fixture
def package() -> FirmwarePackage:
    return store()


@pytest.fixture
def task(package: FirmwarePackage) -> UpgradeTask:
    return make_task(status=TaskStatus.SENT, version=package.version)


@pytest.fixture
def path(task: UpgradeTask, package: FirmwarePackage) -> str:
    return path_of(task, package)


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """Of this test alone, without a thread."""
    fresh = Tally()
    monkeypatch.setattr(firmware, "tally", fresh)
    return fresh


def change(task: UpgradeTask, package: FirmwarePackage, **fields: Any) -> Change:
    now = timezone.now()
    values: dict[str, Any] = {
        "requests": 1, "bytes_served": 100, "last_offset": 100, "rate": 50,
        "first_at": now, "last_at": now,
    }  # fmt: skip
    return Change(task.pk, package.pk, **values | fields)


def test_a_request_is_counted(path: str, tally: Tally) -> None:
    ask(path)
    tally.flush()
    found = Download.objects.get()
    assert (found.requests, found.bytes_served, found.last_offset) == (1, 200_000, 200_000)
    assert found.rate
    assert found.rate > 0


def test_what_cannot_be_written_whole_is_not_written_in_part(
    task: UpgradeTask, package: FirmwarePackage
) -> None:
    other = make_package("14.03.0915")
    make_target(task, make_dock(), other)
    found = [change(task, package), change(task, other, last_offset=None, rate=2**70)]
    with pytest.raises((OverflowError, DataError)):
        downloads.record(found)
    assert not Download.objects.exists()


def test_requests_add_up(path: str, tally: Tally) -> None:
    ask(path, range="bytes=0-99")
    tally.flush()
    ask(path, range="bytes=100-149")
    tally.flush()
    found = Download.objects.get()
    assert (found.requests, found.bytes_served, found.last_offset) == (2, 150, 150)
    assert found.first_at < found.last_at


def test_of_several_ranges_the_highest_end_counts(path: str, tally: Tally) -> None:
    ask(path, range="bytes=5000-5009,0-9")
    tally.flush()
    found = Download.objects.get()
    assert (found.bytes_served, found.last_offset) == (20, 5010)


def test_head_is_no_try_but_the_dock_has_come(path: str, tally: Tally) -> None:
    ask(path, "HEAD")
    tally.flush()
    found = Download.objects.get()
    assert (found.requests, found.bytes_served, found.rate) == (0, 0, None)


def test_a_range_behind_the_end_is_a_try_that_leaves_the_place(path: str, tally: Tally) -> None:
    ask(path, range="bytes=0-99")
    ask(path, range="bytes=999999-")
    tally.flush()
    found = Download.objects.get()
    assert (found.requests, found.last_offset) == (2, 100)


@pytest.mark.parametrize("refused", ["checking", "draft"])
def test_a_refused_request_is_no_try(path: str, tally: Tally, refused: str) -> None:
    FirmwarePackage.objects.update(state=PackageState(refused))
    ask(path)
    tally.flush()
    assert not Download.objects.exists()


def test_a_database_that_is_away_costs_no_count(path: str, tally: Tally) -> None:
    ask(path, range="bytes=0-99")
    with pytest.MonkeyPatch.context() as patch:
        connection.close()
        patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
        with pytest.raises(OperationalError):
            tally.flush()
    ask(path, range="bytes=100-199")
    tally.flush()
    found = Download.objects.get()
    assert (found.requests, found.bytes_served, found.last_offset) == (2, 200, 200)


def test_a_task_that_is_gone_does_not_keep_the_others_from_being_counted(
    task: UpgradeTask, package: FirmwarePackage
) -> None:
    gone = change(task, package)._replace(task_id=task.pk + 1000)
    assert downloads.record([gone, change(task, package)]) == [(task.rollout_id, task.pk)]
    assert Download.objects.get().task == task


def test_many_downloads_cost_as_much_as_one() -> None:
    package = make_package()
    tasks = [make_task(status=TaskStatus.SENT) for _ in range(30)]
    changes = [change(task, package) for task in tasks]
    counts = []
    for some in (changes[:1], changes):
        with CaptureQueriesContext(connection) as found:
            downloads.record(some)
        counts.append(len(found))
    assert counts[1] == counts[0]


def test_several_processes_add_to_the_same_row(task: UpgradeTask, package: FirmwarePackage) -> None:
    def add() -> None:
        for _ in range(20):
            downloads.record([change(task, package)])
        connection.close()

    writers = [threading.Thread(target=add) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = Download.objects.get()
    assert (found.requests, found.bytes_served) == (80, 8000)


# The pages.


def page(task: UpgradeTask) -> str:
    url = reverse("admin:ota_upgradetask_change", args=[task.pk])
    return text(staff("view_upgradetask").get(url)).replace("\xa0", " ")


def test_the_page_shows_a_download_of_which_the_dock_says_nothing() -> None:
    task = make_task(status=TaskStatus.SENT)
    package = make_package("10.01.9999", size=700 * MB, file_name="M3D.zip")
    task.targets.update(package=package)
    numbers = {"requests": 37, "bytes_served": 415 * MB, "last_offset": 412 * MB}
    downloads.record([change(task, package, **numbers, rate=1_153_434)])
    shown = page(task)
    assert "Downloaded 412.0 MiB of 700.0 MiB (58 %), at 1.1 MiB/s, 37 requests, 415.0 MiB" in shown


def test_the_rate_is_not_shown_once_nothing_moves(
    task: UpgradeTask, package: FirmwarePackage
) -> None:
    downloads.record([change(task, package, last_at=timezone.now() - dt.timedelta(minutes=1))])
    assert "/s," not in page(task)


def test_the_page_says_that_the_dock_has_not_come(task: UpgradeTask) -> None:
    assert "The dock has not come for it." in page(task)


def test_a_task_that_was_not_sent_has_no_downloads(package: FirmwarePackage) -> None:
    assert "has not come" not in page(make_task(version=package.version))


def test_with_links_to_a_bucket_the_page_says_that_nothing_is_seen(
    task: UpgradeTask, settings: Settings
) -> None:
    bucket = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "b"}}
    settings.STORAGES = settings.STORAGES | {"default": bucket}
    assert "from the bucket itself" in page(task)


def rollout_page(task: UpgradeTask) -> str:
    return reverse("admin:ota_rollout_change", args=[task.rollout_id])


def test_the_rollouts_row_shows_it_while_the_dock_reports_no_percent(
    task: UpgradeTask, package: FirmwarePackage
) -> None:
    downloads.record([change(task, package, last_offset=116_000)])
    viewer = staff("view_rollout")
    assert "downloading, 58 %" in text(viewer.get(rollout_page(task)))
    UpgradeTask.objects.update(percent=3)
    assert "downloading" not in text(viewer.get(rollout_page(task)))


def test_a_rollouts_page_costs_the_same_for_two_and_for_thirty_downloads() -> None:
    rollout, package, viewer = make_rollout(), make_package(), staff("view_rollout")

    def fetch(number: int) -> int:
        for _ in range(number):
            task = make_task(make_dock(), rollout=rollout, status=TaskStatus.SENT)
            downloads.record([change(task, package)])
        return queries(viewer, reverse("admin:ota_rollout_change", args=[rollout.pk]))

    assert fetch(2) == fetch(28)


# The process.


@pytest.fixture
def running(processes: Processes) -> Processes:
    processes.firmware()
    return processes


def sums() -> dict[str, int]:
    return Download.objects.aggregate(Sum("requests"), Sum("bytes_served"), Sum("last_offset"))


@pytest.mark.services
def test_a_download_is_seen_while_it_goes_on(running: Processes) -> None:
    with httpx.stream("GET", address_of(bytes(50_000_000))) as answer:
        next(answer.iter_raw(1000))
        eventually(lambda: Download.objects.filter(bytes_served__gt=0).exists(), "a count")
        found = Download.objects.get()
        # Nobody reads on: what was not taken is not counted.
        assert 0 < found.bytes_served < 20_000_000


@pytest.mark.services
def test_a_dock_that_hangs_up_costs_nothing_more(running: Processes) -> None:
    size = 300_000_000
    with httpx.stream("GET", address_of(bytes(size))) as answer:
        next(answer.iter_raw(1000))
    assert httpx.get(address_of()).content == CONTENT
    running.running[0].terminate()
    assert "socket.send() raised" not in running.running[0].output
    assert Download.objects.get(package__size=size).bytes_served < size // 10


@pytest.mark.services
def test_what_was_taken_is_counted_when_the_process_ends(running: Processes) -> None:
    address = address_of()
    for start in range(0, 1000, 100):
        httpx.get(address, headers={"Range": f"bytes={start}-{start + 99}"})
    running.running[0].terminate()
    found = {"requests__sum": 10, "bytes_served__sum": 1000, "last_offset__sum": 1000}
    assert sums() == found


@pytest.mark.services
def test_two_processes_count_to_the_same_row(running: Processes) -> None:
    address, first = address_of(), running.firmware_port
    running.firmware_port = ports.free()
    running.firmware()
    second = address.replace(f":{first}/", f":{running.firmware_port}/")
    for number in range(20):
        assert httpx.get((address, second)[number % 2]).content == CONTENT
    eventually(lambda: sums()["requests__sum"] == 20, "all requests")
    assert sums()["bytes_served__sum"] == 20 * len(CONTENT)
    assert Download.objects.count() == 1


@pytest.mark.services
def test_the_tasks_page_is_told(running: Processes) -> None:
    address = address_of()
    task = UpgradeTask.objects.get()
    connection: Any = redis.Redis.from_url(running.environment["REDIS_URL"])
    with connection, connection.pubsub() as heard:
        heard.psubscribe("*")
        httpx.get(address)
        told = f"rollout.{task.rollout_id}".encode()

        def is_told() -> bool:
            message = heard.get_message(timeout=0.1)
            return bool(message) and told in message["channel"]

        eventually(is_told, "an announcement")
