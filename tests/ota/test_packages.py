"""Zips that become packages, those that are refused, and packages that are taken back."""

import hashlib
import io
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from ota import packages, zips
from ota.models import FirmwarePackage, ProductCode, UpgradeTask
from ota.packages import Inspection, PackageRefused
from ota.states import PackageState, TaskStatus
from simulator.packages import build
from tests.make import make_model, make_package, make_rollout, make_task

pytestmark = pytest.mark.django_db

DAY = date(2024, 11, 7)
SIGNED = "wm265_0000_v10.01.3205_20241107.pro.cfg.sig"
MakeZip = Callable[..., Path]


@pytest.fixture(autouse=True)
def storage(settings: Settings, tmp_path: Path) -> Path:
    """The folder of stored packages."""
    backend = "django.core.files.storage.FileSystemStorage"
    entry = {"BACKEND": backend, "OPTIONS": {"location": str(tmp_path / "media")}}
    settings.STORAGES = settings.STORAGES | {"default": entry}
    return tmp_path / "media"


@pytest.fixture
def make_zip(tmp_path: Path) -> MakeZip:
    """Writes a zip with the named entries."""

    def make(*entries: str, name: str = "firmware.zip", content: bytes = b"content") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as package:
            for entry in entries or (SIGNED,):
                package.writestr(entry, content)
        return path

    return make


@pytest.fixture
def dock2(tmp_path: Path) -> Path:
    """A package as the vendor ships it, 100 kB."""
    make_model("3-2-0")
    return build(tmp_path, "DOCK2", "10.01.3205", DAY, 100_000)


def inspect(path: Path) -> Inspection:
    with path.open("rb") as file:
        return zips.inspect(file, path.name)


def add(path: Path, **options: Any) -> FirmwarePackage:
    make_model("3-2-0")
    return packages.add(path, **{"models": ["3-2-0"]} | options)[0]


# What a zip tells


@pytest.mark.parametrize(
    ("entry", "code", "version", "day"),
    [
        (SIGNED, "wm265", "10.01.3205", DAY),
        ("wm265_0000_V10.01.32.05_20241107.cfg.sig", "wm265", "10.01.3205", DAY),
        ("wm265_10.01.3205.pro.cfg.sig", "wm265", "10.01.3205", None),
        ("wm265_a_b_20241107_v10.01.3205.pro.cfg.sig", "wm265", "10.01.3205", DAY),
        ("wm265_0000_v10.01.3205_20249999.cfg.sig", "wm265", "10.01.3205", None),
        ("wm 265_v10.01.3205.cfg.sig", "", "10.01.3205", None),
    ],
)
def test_the_signature_entry_tells_product_version_and_day(
    make_zip: MakeZip, entry: str, code: str, version: str, day: date | None
) -> None:
    told = inspect(make_zip("module.bin", entry))
    assert told.entry == (code, version, day)


def test_the_file_name_tells_the_version_where_the_entry_does_not(make_zip: MakeZip) -> None:
    path = make_zip("whatever.cfg.sig", name="WM265E_07.01.10.05.zip")
    assert inspect(path).name == ("WM265E", "07.01.1005", None)


def test_a_made_up_package_of_the_simulator_is_read(dock2: Path) -> None:
    assert inspect(dock2) == (("wm9s2", "10.01.3205", DAY), ("DOCK2", "10.01.3205", None))


def test_a_signature_below_the_top_level_does_not_count(make_zip: MakeZip) -> None:
    with pytest.raises(PackageRefused, match=r"no \.cfg\.sig file at the top level"):
        inspect(make_zip(f"folder/{SIGNED}"))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off", b"\x00" * 100_000])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(PackageRefused, match=r"a\.zip is no zip, or it is damaged"):
        inspect(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="is not there"):
        add(tmp_path / "a.zip")


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "a.zip", "w").close()
    with pytest.raises(PackageRefused, match="empty zip"):
        inspect(tmp_path / "a.zip")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_zip_that_was_cut_off_is_refused(dock2: Path, kept: float) -> None:
    whole = dock2.read_bytes()
    dock2.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(PackageRefused):
        inspect(dock2)


def test_a_zip_that_lacks_its_middle_is_refused(dock2: Path) -> None:
    whole = dock2.read_bytes()
    dock2.write_bytes(whole[:20_000] + whole[60_000:])
    with pytest.raises(PackageRefused, match="damaged"):
        inspect(dock2)


def test_a_zip_behind_other_content_is_refused(make_zip: MakeZip) -> None:
    path = make_zip()
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with pytest.raises(PackageRefused, match="directory does not fit"):
        inspect(path)


def test_an_encrypted_zip_is_refused(make_zip: MakeZip) -> None:
    path = make_zip()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(raw)
    with pytest.raises(PackageRefused, match="encrypted"):
        inspect(path)


@pytest.mark.parametrize("entry", ["/etc/passwd", "../up", "a/../../up", "..\\up", "C:\\x", "C:/x"])
def test_an_entry_that_leads_elsewhere_is_refused(make_zip: MakeZip, entry: str) -> None:
    with pytest.raises(PackageRefused, match="unsafe entry"):
        inspect(make_zip(SIGNED, entry))


def test_too_many_entries_are_refused(make_zip: MakeZip) -> None:
    entries = [SIGNED, *(f"{number}" for number in range(zips.MOST_ENTRIES))]
    with pytest.raises(PackageRefused, match="10,001 entries; at most 10,000"):
        inspect(make_zip(*entries))


def test_a_directory_that_would_fill_the_memory_is_not_read(make_zip: MakeZip) -> None:
    path = make_zip(*(f"{number:0200}" for number in range(20_000)))
    with pytest.raises(PackageRefused, match="the directory is too large"):
        inspect(path)


def test_a_zip_that_would_unpack_to_a_mountain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(SIGNED, bytes(10_000_000))
    with pytest.raises(PackageRefused, match="more than 100 times its size"):
        inspect(path)


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=20))
def test_a_damaged_zip_is_read_or_refused_but_never_breaks(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as package:
        package.writestr(SIGNED, b"x" * 100)
        package.writestr("wm265_0100_v10.01.3205_20241107.pro.fw.sig", b"y" * 100)
    raw = bytearray(whole.getvalue())
    for place, value in changes:
        raw[place % len(raw)] = value
    (tmp_path / "a.zip").write_bytes(raw)
    with suppress(PackageRefused):
        inspect(tmp_path / "a.zip")


# Adding


def test_a_package_is_stored_with_what_docks_check(dock2: Path) -> None:
    whole = dock2.read_bytes()
    package = add(dock2)
    assert package.file.read() == whole
    package.file.close()
    assert package.size == len(whole)
    assert package.md5 == hashlib.md5(whole, usedforsecurity=False).hexdigest()
    assert package.sha256 == hashlib.sha256(whole).hexdigest()


def test_a_package_has_what_the_zip_tells(dock2: Path) -> None:
    package = add(dock2)
    assert (package.version, package.version_number) == ("10.01.3205", 10013205)
    assert (package.released_on, package.product_code) == (DAY, "wm9s2")
    assert package.file_name == "DOCK2_V10.01.3205.zip"
    assert [model.key for model in package.models.all()] == ["3-2-0"]
    assert package.state == PackageState.AVAILABLE


def test_a_draft_is_not_offered_yet(dock2: Path) -> None:
    assert add(dock2, draft=True).state == PackageState.DRAFT


def test_the_stored_name_is_ours_and_the_vendors_is_kept(dock2: Path) -> None:
    package = add(dock2, file_name="Vendor (1) ü.zip")
    assert re.fullmatch(r"firmware/[0-9a-f-]{36}\.zip", str(package.file.name))
    assert package.file_name == "Vendor (1) ü.zip"


def test_the_same_bytes_twice_are_one_package(dock2: Path, storage: Path) -> None:
    first = add(dock2)
    second, is_new = packages.add(dock2, file_name="other.zip")
    assert (second, is_new) == (first, False)
    assert len(list(storage.rglob("*.zip"))) == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_add_the_same_bytes_at_once_get_one_package(dock2: Path, storage: Path) -> None:
    def add_once(_: int) -> bool:
        try:
            return packages.add(dock2, models=["3-2-0"])[1]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(add_once, range(4))) == [False, False, False, True]
    assert FirmwarePackage.objects.count() == len(list(storage.rglob("*.zip"))) == 1


def test_a_file_that_changes_while_it_is_added_is_refused_and_nothing_is_kept(
    dock2: Path, storage: Path
) -> None:
    size, read = dock2.stat().st_size, 0
    os.utime(dock2, (0, 0))

    def damage(count: int) -> None:
        nonlocal read
        read += count
        if read > size:  # its hashes are known, and the copy is still to be made
            with dock2.open("r+b") as file:
                file.write(b"PK\x03\x05")

    with pytest.raises(PackageRefused, match="changed while it was read"):
        packages.add(dock2, models=["3-2-0"], on_bytes=damage)
    assert not list(storage.rglob("*.zip"))


@pytest.mark.parametrize(
    "name",
    ["a.exe", ".zip", "a.zip.sh", "x" * 197 + ".zip", "a/b.zip", "a\\b.zip", "a\n.zip", "a\u202eb.zip"],
)  # fmt: skip
def test_a_file_name_that_could_do_harm_is_refused(dock2: Path, name: str) -> None:
    with pytest.raises(PackageRefused, match="The file name"):
        add(dock2, file_name=name)
    assert not FirmwarePackage.objects.exists()


def test_a_version_that_contradicts_the_zip_is_refused(dock2: Path) -> None:
    with pytest.raises(PackageRefused, match=r"says that it is 10\.01\.3205, not 10\.01\.3206"):
        add(dock2, version="10.01.32.06")


def test_the_same_version_in_another_form_is_no_contradiction(dock2: Path) -> None:
    assert add(dock2, version="10.01.32.05").version == "10.01.3205"


def test_what_is_no_version_is_refused(dock2: Path) -> None:
    with pytest.raises(PackageRefused, match="expected NN"):
        add(dock2, version="newest")


def test_a_zip_without_a_version_needs_one(make_zip: MakeZip) -> None:
    path = make_zip("whatever.cfg.sig")
    with pytest.raises(PackageRefused, match="does not tell its version"):
        add(path)
    assert add(path, version="10.01.3205").version == "10.01.3205"


def test_a_product_code_that_is_known_names_the_models(dock2: Path) -> None:
    code = ProductCode.objects.create(code="WM9S2")
    code.models.set([make_model("3-2-0")])
    assert [model.key for model in add(dock2, models=None).models.all()] == ["3-2-0"]


def test_a_product_code_that_is_unknown_needs_models(dock2: Path) -> None:
    with pytest.raises(
        PackageRefused, match=r"product code wm9s2.*Name its models, or teach the code"
    ):
        add(dock2, models=None)


def test_an_unknown_model_is_named(dock2: Path) -> None:
    with pytest.raises(PackageRefused, match="unknown device model 3-99-0"):
        add(dock2, models=["3-2-0", "3-99-0"])


def test_other_bytes_for_a_version_are_refused_and_nothing_is_kept(
    dock2: Path, storage: Path
) -> None:
    make_package("10.01.3205", models=("3-2-0", "0-91-0"))
    before = list(storage.rglob("*.zip"))
    with pytest.raises(PackageRefused, match="Withdraw that one first"):
        add(dock2)
    assert list(storage.rglob("*.zip")) == before


def test_other_bytes_for_a_version_are_taken_once_the_older_is_withdrawn(dock2: Path) -> None:
    make_package("10.01.3205", state=PackageState.WITHDRAWN)
    assert add(dock2).state == PackageState.AVAILABLE


def test_the_same_version_for_other_models_is_taken(dock2: Path) -> None:
    make_package("10.01.3205", models=("0-91-0",))
    assert add(dock2).version == "10.01.3205"


def test_a_product_code_of_other_models_in_the_library_is_not_taken_for_these(
    dock2: Path,
) -> None:
    code = inspect(dock2).entry.product_code
    make_package("10.01.1700", models=("3-3-0",), product_code=code)
    with pytest.raises(PackageRefused, match="has the product code"):
        packages.add(dock2, models=["0-100-1"], version="10.01.3205")


def test_a_big_zip_is_not_read_into_memory(tmp_path: Path) -> None:
    path = build(tmp_path, "DOCK2", "10.01.3205", DAY, 30_000_000)
    tracemalloc.start()
    try:
        package = add(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert default_storage.size(str(package.file.name)) == path.stat().st_size
    assert peak < 8_000_000


# Withdrawing


def test_withdrawing_cancels_what_is_not_sent_yet() -> None:
    task = make_task()
    package = task.targets.get().package
    canceled = packages.withdraw(package, timezone.now())
    task.refresh_from_db()
    assert canceled == [task]
    assert task.status == TaskStatus.CANCELED
    assert package.state == PackageState.WITHDRAWN
    event = task.events.get()
    assert package.file_name in event.text


def test_withdrawing_leaves_what_was_sent(django_user_model: Any) -> None:
    user = django_user_model.objects.create_user("op")
    task = make_task(status=TaskStatus.SENT)
    assert packages.withdraw(task.targets.get().package, timezone.now(), user) == []
    task.refresh_from_db()
    assert task.status == TaskStatus.SENT


def test_withdrawing_leaves_tasks_of_other_packages() -> None:
    task = make_task(rollout=make_rollout())
    assert packages.withdraw(make_package("14.03.0915"), timezone.now()) == []
    assert UpgradeTask.objects.get(pk=task.pk).status == TaskStatus.PENDING


# Purging


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.SENT, TaskStatus.VERIFYING])
def test_a_file_that_an_open_task_may_need_is_not_purged(status: TaskStatus) -> None:
    task = make_task(status=status)
    package = task.targets.get().package
    FirmwarePackage.objects.update(state=PackageState.WITHDRAWN)
    with pytest.raises(PackageRefused, match="needed by 1 upgrade that"):
        packages.purge(package, timezone.now())
    assert default_storage.exists(str(package.file.name))


@pytest.mark.django_db(transaction=True)
def test_a_purged_package_keeps_its_row_and_loses_its_file() -> None:
    package = make_task(status=TaskStatus.OK).targets.get().package
    with pytest.raises(PackageRefused, match="withdraw it first"):
        packages.purge(package, timezone.now())
    packages.withdraw(package, timezone.now())
    packages.purge(package, timezone.now())
    assert FirmwarePackage.objects.get().purged_at
    assert not default_storage.exists(str(package.file.name))
