"""All bytes of a package are read before it is offered, each day, and after its file changed."""

import datetime as dt
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from ota import checks, packages, rollouts, storage, uploads
from ota.models import FirmwarePackage, PackageEvent, Rollout, UpgradeTask
from ota.models.notices import Kind, News
from ota.packages import PackageRefused
from ota.states import PackageState, TaskStatus
from ota.upgrades import issue, judging
from simulator.packages import build
from tests.make import NEW, make_dock, make_listening, make_model, make_rollout, make_task
from tests.processes import Processes, eventually

pytestmark = pytest.mark.django_db

DAY = dt.date(2024, 11, 7)
Deed = Callable[[FirmwarePackage], None]


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    return build(tmp_path, "DOCK2", NEW, DAY, 100_000)


def arrive(path: Path, **fields: Any) -> FirmwarePackage:
    """A package as it is right after its upload: nobody has read its bytes yet."""
    values: dict[str, Any] = {"file_name": path.name, "version": NEW, "state": "checking"}
    package = FirmwarePackage(**values | {"size": path.stat().st_size} | fields)
    with path.open("rb") as file:
        package.file.name = default_storage.save(f"firmware/{path.name}", File(file))
    package.save()
    package.models.set([make_model("3-2-0")])
    return package


@pytest.fixture
def large(tmp_path: Path) -> Iterator[FirmwarePackage]:
    """One that is read for a second or more; its file does not outlive the test."""
    built = build(tmp_path, "DOCK2", NEW, DAY, 4096)
    package = arrive(built)
    path = build(path_of(package).parent, "DOCK2", NEW, DAY, 700_000_000)
    path.replace(path_of(package))
    FirmwarePackage.objects.update(size=path_of(package).stat().st_size)
    yield package
    path_of(package).unlink()


def check() -> None:
    assert checks.check(timezone.now())


def available(path: Path) -> FirmwarePackage:
    package = arrive(path)
    check()
    return fresh(package)


def grow_old(package: FirmwarePackage) -> None:
    """The last check was the day before yesterday."""
    before = timezone.now() - dt.timedelta(days=2)
    FirmwarePackage.objects.filter(pk=package.pk).update(verified_at=before)


def fresh(package: FirmwarePackage) -> FirmwarePackage:
    return FirmwarePackage.objects.get(pk=package.pk)


def path_of(package: FirmwarePackage) -> Path:
    return storage.path(str(package.file.name))


def history(package: FirmwarePackage) -> list[str]:
    return list(package.events.values_list("text", flat=True))


# What can happen to a file


def change_a_byte(package: FirmwarePackage) -> None:
    """Of the same size and, as a failing disk does it, with the old time."""
    path = path_of(package)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(50_000)
        byte = file.read(1)
        file.seek(50_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_bytes_and_time(package: FirmwarePackage) -> None:
    change_a_byte(package)
    touch(package)


def cut_off(package: FirmwarePackage) -> None:
    os.truncate(path_of(package), 60_000)


def delete(package: FirmwarePackage) -> None:
    path_of(package).unlink()


def touch(package: FirmwarePackage) -> None:
    os.utime(path_of(package), (1_000_000_000, 1_000_000_000))


# Before it is offered


def test_a_package_that_is_whole_becomes_available(zip_path: Path) -> None:
    package, whole = available(zip_path), zip_path.read_bytes()
    assert package.state == PackageState.AVAILABLE
    assert package.md5 == hashlib.md5(whole, usedforsecurity=False).hexdigest()
    assert package.sha256 == hashlib.sha256(whole).hexdigest()
    assert (package.verified_at is not None, package.checked_until) == (True, None)
    assert package.stamp == storage.stat(str(package.file.name)).stamp
    assert "all bytes checked" in history(package)[-1]


def test_a_package_that_opens_as_a_draft_waits_for_its_operator(zip_path: Path) -> None:
    package = arrive(zip_path, opens_as_draft=True)
    check()
    assert fresh(package).state == PackageState.DRAFT
    assert not fresh(package).problem
    packages.make_available(package, timezone.now())
    FirmwarePackage.objects.update(state=PackageState.CHECKING)
    check()
    assert fresh(package).state == PackageState.AVAILABLE


@pytest.mark.parametrize("deed", [cut_off, delete, change_a_byte])
def test_a_package_that_arrived_damaged_is_not_offered(zip_path: Path, deed: Deed) -> None:
    package = arrive(zip_path)
    deed(package)
    check()
    package = fresh(package)
    assert (package.state, package.verified_at) == (PackageState.DRAFT, None)
    assert "upload the vendor's zip anew" in package.problem
    with pytest.raises(PackageRefused, match="cannot be made available"):
        packages.make_available(package, timezone.now())


def test_the_entry_that_is_broken_is_named(zip_path: Path) -> None:
    package = arrive(zip_path)
    change_a_byte(package)
    check()
    with zipfile.ZipFile(path_of(package)) as broken:
        assert str(broken.testzip()) in fresh(package).problem


def test_bytes_that_are_not_those_that_were_sent_are_not_offered(zip_path: Path) -> None:
    package = arrive(zip_path, sha256="0" * 64)
    check()
    assert "not " + "0" * 64 in fresh(package).problem


def test_what_failed_does_not_keep_the_right_zip_from_its_place(zip_path: Path) -> None:
    broken = arrive(zip_path)
    change_a_byte(broken)
    check()
    package, is_new = packages.add(zip_path, models=["3-2-0"])
    assert (package.state, is_new) == (PackageState.AVAILABLE, True)


def test_other_bytes_of_a_version_that_is_there_are_not_offered(
    zip_path: Path, tmp_path: Path
) -> None:
    available(zip_path)
    (tmp_path / "other").mkdir()
    other = arrive(build(tmp_path / "other", "DOCK2", NEW, DAY, 120_000))
    check()
    assert fresh(other).state == PackageState.DRAFT
    assert "Withdraw that one first" in fresh(other).problem


def test_what_failed_and_was_mended_does_not_take_a_place_that_another_zip_has_got(
    zip_path: Path, tmp_path: Path
) -> None:
    broken = arrive(zip_path, sha256=hashlib.sha256(zip_path.read_bytes()).hexdigest())
    change_a_byte(broken)
    check()
    (tmp_path / "other").mkdir()
    other = build(tmp_path / "other", "DOCK2", NEW, DAY, 120_000)
    packages.add(other, models=["3-2-0"])
    packages.add(zip_path, models=["3-2-0"])
    check()
    assert fresh(broken).state == PackageState.DRAFT
    assert "Withdraw that one first" in fresh(broken).problem


# The same bytes again


@pytest.mark.django_db(transaction=True)
def test_the_same_bytes_again_give_way_to_the_package_that_is_there(
    zip_path: Path, django_user_model: Any
) -> None:
    first = available(zip_path)
    second = arrive(zip_path, created_by=django_user_model.objects.create_user("ann"))
    check()
    assert list(FirmwarePackage.objects.all()) == [first]
    assert not path_of(second).exists()
    assert path_of(first).exists()
    assert "uploaded again by ann" in history(first)[-1]


@pytest.mark.django_db(transaction=True)
def test_the_same_bytes_again_leave_a_withdrawn_package_withdrawn(zip_path: Path) -> None:
    first = available(zip_path)
    packages.withdraw(first, timezone.now())
    arrive(zip_path)
    check()
    assert fresh(first).state == PackageState.WITHDRAWN
    assert "it stays withdrawn" in history(first)[-1]


@pytest.mark.django_db(transaction=True)
def test_the_same_bytes_again_mend_a_damaged_package(zip_path: Path) -> None:
    first = available(zip_path)
    grow_old(first)
    change_a_byte(first)
    check()
    arrive(zip_path)
    check()
    assert fresh(first).state == PackageState.CHECKING
    check()
    assert (fresh(first).state, fresh(first).problem) == (PackageState.AVAILABLE, "")
    assert path_of(fresh(first)).read_bytes() == zip_path.read_bytes()
    assert [each.name for each in storage.listing()] == [fresh(first).file.name]


@pytest.mark.django_db(transaction=True)
def test_adding_the_vendors_zip_again_mends_a_damaged_package(zip_path: Path) -> None:
    first, _ = packages.add(zip_path, models=["3-2-0"])
    grow_old(first)
    delete(first)
    check()
    assert packages.add(zip_path, models=["3-2-0"]) == (first, False)
    check()
    assert fresh(first).state == PackageState.AVAILABLE


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("draft", "state"), [(False, PackageState.AVAILABLE), (True, PackageState.DRAFT)]
)
def test_adding_the_vendors_zip_again_brings_back_a_file_that_nobody_missed_yet(
    zip_path: Path, draft: bool, state: PackageState
) -> None:
    first, _ = packages.add(zip_path, models=["3-2-0"], draft=draft)
    delete(first)
    found, is_new = packages.add(zip_path, models=["3-2-0"])
    assert (found, found.state, is_new) == (first, PackageState.CHECKING, False)
    check()
    assert (fresh(first).state, fresh(first).problem) == (state, "")
    assert path_of(fresh(first)).read_bytes() == zip_path.read_bytes()


@pytest.mark.django_db(transaction=True)
def test_the_same_bytes_again_bring_back_a_file_that_nobody_missed_yet(zip_path: Path) -> None:
    first = available(zip_path)
    delete(first)
    arrive(zip_path.rename(zip_path.with_name("again.zip")))
    check()
    assert fresh(first).state == PackageState.CHECKING
    check()
    assert fresh(first).state == PackageState.AVAILABLE
    assert [each.name for each in storage.listing()] == [fresh(first).file.name]


@pytest.mark.django_db(transaction=True)
def test_the_same_zip_again_is_copied_nowhere_while_the_file_is_there(zip_path: Path) -> None:
    first, _ = packages.add(zip_path, models=["3-2-0"])
    before = list(storage.listing())
    assert packages.add(zip_path, models=["3-2-0"]) == (first, False)
    assert list(storage.listing()) == before
    assert fresh(first).state == PackageState.AVAILABLE


# Each day


def test_a_package_is_read_again_each_day(zip_path: Path, settings: Settings) -> None:
    package = available(zip_path)
    assert not checks.check(timezone.now())
    grow_old(package)
    lines = history(package)
    check()
    verified_at = fresh(package).verified_at
    assert verified_at
    assert timezone.now() - verified_at < dt.timedelta(minutes=1)
    assert history(package) == lines
    grow_old(package)
    settings.RECHECK_HOURS = 0
    assert not checks.check(timezone.now())


@pytest.mark.parametrize("deed", [cut_off, delete, change_a_byte, change_bytes_and_time])
def test_a_damaged_package_is_found_and_its_rollouts_pause(
    zip_path: Path, deed: Deed, caplog: pytest.LogCaptureFixture
) -> None:
    package = available(zip_path)
    concerned, other = make_task(), make_task(rollout=make_rollout(), status=TaskStatus.OK)
    in_flight = make_task(rollout=make_rollout(), status=TaskStatus.IN_PROGRESS)
    grow_old(package)
    deed(package)
    check()
    assert fresh(package).state == PackageState.DRAFT
    assert "Add the vendor's zip again" in fresh(package).problem
    for task in (concerned, in_flight):
        rollout = Rollout.objects.get(pk=task.rollout_id)
        assert rollout.status == Rollout.Status.PAUSED
        assert f"package {package} is damaged" in rollout.pause_reason
    assert Rollout.objects.get(pk=other.rollout_id).status == Rollout.Status.RUNNING
    assert [news.package for news in News.objects.filter(kind=Kind.DAMAGED)] == [package]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_damaged_package_leaves_its_tasks_as_they_are(zip_path: Path) -> None:
    package = available(zip_path)
    task = make_task()
    grow_old(package)
    cut_off(package)
    check()
    task.refresh_from_db()
    assert task.status == TaskStatus.PENDING


# The storage is away


def test_a_folder_that_is_not_there_damages_nothing(zip_path: Path) -> None:
    package, waiting = available(zip_path), arrive(zip_path)
    grow_old(package)
    folder = storage.path("firmware")
    folder.rename(folder.with_name("unmounted"))
    check()
    check()
    assert not checks.check(timezone.now())
    assert fresh(package).state == PackageState.AVAILABLE
    assert fresh(waiting).state == PackageState.CHECKING
    folder.with_name("unmounted").rename(folder)
    assert checks.check(timezone.now() + checks.AGAIN_AFTER)


def test_nobody_makes_a_new_folder_where_one_is_not_mounted(
    zip_path: Path, admin_user: User
) -> None:
    """All packages would look as if their files were gone."""
    package = available(zip_path)
    folder = storage.path("firmware")
    folder.rename(folder.with_name("unmounted"))
    newer, announced = build(zip_path.parent, "DOCK2", "14.03.0915", DAY, 5000), uploads.Announced
    with pytest.raises(storage.StorageAway, match="is it mounted"):
        uploads.create(admin_user, announced("another.zip", 1000, "today"), timezone.now())
    with pytest.raises(storage.StorageAway, match="is it mounted"):
        packages.add(newer, models=["3-2-0"])
    grow_old(package)
    check()
    assert not folder.exists()
    assert fresh(package).state == PackageState.AVAILABLE


def test_a_storage_that_stays_away_is_told_once(zip_path: Path) -> None:
    package = arrive(zip_path)
    storage.path("firmware").rename(storage.path("unmounted"))
    for minute in range(3):
        assert checks.check(timezone.now() + dt.timedelta(minutes=minute))
    assert len(history(package)) == 1
    assert "cannot be read now" in history(package)[0]


# Several at once


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_two_workers_do_not_read_one_package(zip_path: Path) -> None:
    package = arrive(zip_path)

    def check_once(_: int) -> bool:
        try:
            return checks.check(timezone.now())
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(check_once, range(4))) == [False, False, False, True]
    assert len(history(package)) == 1


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_a_package_that_is_withdrawn_while_it_is_read_stays_withdrawn(zip_path: Path) -> None:
    package = arrive(zip_path)

    def withdraw() -> bool:
        packages.withdraw(package, timezone.now())
        return False

    assert checks.check(timezone.now(), withdraw)
    assert fresh(package).state == PackageState.WITHDRAWN
    assert history(package) == ["withdrawn"]


def test_a_package_of_a_worker_that_died_is_taken_up_after_a_while(zip_path: Path) -> None:
    package = arrive(zip_path)
    now = timezone.now()
    FirmwarePackage.objects.update(checked_until=now + checks.LEASE)  # and then it died
    assert not checks.check(now)
    assert checks.check(now + checks.LEASE)
    assert fresh(package).state == PackageState.AVAILABLE


def test_a_worker_whose_package_was_taken_by_another_writes_nothing(
    zip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, now = arrive(zip_path), timezone.now()
    monkeypatch.setattr(checks, "RENEW_AFTER", dt.timedelta(0))

    def take() -> bool:
        FirmwarePackage.objects.update(checked_until=now + 2 * checks.LEASE)
        return False

    assert checks.check(now, take)
    assert fresh(package).state == PackageState.CHECKING
    assert fresh(package).checked_until == now + 2 * checks.LEASE


def test_a_worker_that_ends_hands_its_package_back(zip_path: Path) -> None:
    package = arrive(zip_path)
    assert checks.check(timezone.now(), lambda: True)
    assert fresh(package).state == PackageState.CHECKING
    check()
    assert fresh(package).state == PackageState.AVAILABLE


def test_a_file_that_changes_while_it_is_read_is_read_again(zip_path: Path) -> None:
    package = arrive(zip_path)

    def change() -> bool:
        touch(package)
        return False

    assert checks.check(timezone.now(), change)
    assert fresh(package).state == PackageState.CHECKING
    check()
    assert fresh(package).state == PackageState.AVAILABLE


@pytest.mark.services
@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_a_worker_killed_while_checking_loses_nothing(
    processes: Processes, large: FirmwarePackage
) -> None:
    worker = processes.worker()
    processes.beat()
    taken = FirmwarePackage.objects.exclude(checked_until=None)
    eventually(taken.exists, "the check's begin")
    worker.kill9()
    assert fresh(large).state == PackageState.CHECKING
    taken.update(checked_until=timezone.now())  # the minute is over
    worker.start()
    eventually(lambda: fresh(large).state == PackageState.AVAILABLE, "the check's end")


@pytest.mark.services
@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_told_to_end_while_checking_hands_the_package_back(
    processes: Processes, large: FirmwarePackage
) -> None:
    worker = processes.worker()
    processes.beat()
    eventually(FirmwarePackage.objects.exclude(checked_until=None).exists, "the check's begin")
    worker.terminate()
    package = fresh(large)
    assert (package.state, package.checked_until) == (PackageState.CHECKING, None)


# At each issue


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands that were published."""
    make_listening()
    found: list[Any] = []

    def publish(commands: list[Any]) -> list[Outcome]:
        found.extend(commands)
        return [Outcome.CONFIRMED] * len(commands)

    monkeypatch.setattr(publisher, "connect", lambda: None)
    monkeypatch.setattr(publisher, "publish", publish)
    return found


def tick(after: dt.timedelta = dt.timedelta()) -> None:
    now = timezone.now() + after
    issue.look_again(now)
    issue.issue(issue.due(now), now)


def reasons(task: UpgradeTask) -> list[str]:
    task.refresh_from_db()
    return [reason["code"] for reason in task.waits_for]


@pytest.mark.parametrize("deed", [cut_off, delete, change_bytes_and_time])
def test_nothing_is_sent_with_a_file_that_changed(
    zip_path: Path, sent: list[Any], deed: Deed
) -> None:
    package, task = available(zip_path), make_task()
    deed(package)
    tick()
    assert (sent, reasons(task)) == ([], ["package_unavailable"])
    assert fresh(package).state == PackageState.CHECKING
    assert "changed since it was checked" in history(package)[-1]
    check()
    assert fresh(package).state == PackageState.DRAFT
    assert Rollout.objects.get().status == Rollout.Status.PAUSED
    tick()
    assert not sent


def test_a_file_that_was_only_touched_is_checked_and_its_tasks_go_by_themselves(
    zip_path: Path, sent: list[Any]
) -> None:
    package, task = available(zip_path), make_task()
    touch(package)
    tick()
    assert (sent, reasons(task)) == ([], ["package_unavailable"])
    check()
    tick(judging.LOOK_AGAIN)
    assert len(sent) == 1
    assert fresh(package).state == PackageState.AVAILABLE


def test_while_the_storage_is_away_nothing_is_sent_and_nothing_is_lost(
    zip_path: Path, sent: list[Any]
) -> None:
    package, task = available(zip_path), make_task()
    folder = storage.path("firmware")
    folder.rename(folder.with_name("unmounted"))
    tick()
    assert (sent, reasons(task)) == ([], ["no_link"])
    assert fresh(package).state == PackageState.AVAILABLE
    folder.with_name("unmounted").rename(folder)
    tick(judging.LOOK_AGAIN)
    assert len(sent) == 1


def test_a_file_is_looked_at_once_for_all_tasks_of_a_chunk(
    zip_path: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    available(zip_path)
    rollout, looked = make_rollout(), []
    for _ in range(5):
        make_task(make_dock(), rollout=rollout)
    real = storage.stat

    def stat(name: str) -> storage.Stat:
        looked.append(name)
        return real(name)

    monkeypatch.setattr(storage, "stat", stat)
    tick()
    assert (len(sent), len(looked)) == (5, 1)


def test_a_package_without_a_stamp_is_judged_by_its_size(zip_path: Path, sent: list[Any]) -> None:
    package = available(zip_path)
    make_task()
    FirmwarePackage.objects.update(stamp="")
    touch(package)
    tick()
    assert len(sent) == 1


def test_resuming_a_rollout_whose_package_was_mended_sends_its_tasks(
    zip_path: Path, sent: list[Any]
) -> None:
    package, task = available(zip_path), make_task()
    shutil.copy(path_of(package), path_of(package).with_suffix(".backup"))
    cut_off(package)
    tick()
    check()
    packages.add(zip_path, models=["3-2-0"])
    check()
    tick()
    assert not sent
    rollouts.resume(task.rollout, timezone.now())
    tick()
    assert len(sent) == 1


def test_events_name_nobody_where_the_system_did_it(zip_path: Path) -> None:
    available(zip_path)
    assert set(PackageEvent.objects.values_list("actor", flat=True)) == {None}
