"""A package's page: how it stands, what people say about it, its history, and what can be done."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import FileSystemStorage
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from ota import packages, storage
from ota.models import FirmwarePackage, PackageEvent, ProductCode, UpgradeTask
from ota.packages import PackageRefused, changes
from ota.states import PackageState, TaskStatus
from tests.make import NEW, OLD, make_model, make_package, make_rollout, make_task
from tests.people import log_in, queries, text, told

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/firmwarepackage/"


@pytest.fixture
def storage_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(where: FileSystemStorage, name: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileSystemStorage, "delete", refuse)


def page(package: FirmwarePackage, name: str = "change") -> str:
    return reverse(f"admin:ota_firmwarepackage_{name}", args=[package.pk])


def save(client: Client, package: FirmwarePackage, **said: Any) -> Any:
    """Presses "Save" with what is said instead of what stands there."""
    form = {
        "models": [model.pk for model in package.models.all()],
        "released_on": package.released_on or "",
        "minimum_version": package.minimum_version,
        "notes": package.notes,
    }
    return client.post(page(package), form | said)


def history(package: FirmwarePackage) -> list[str]:
    return [event.text for event in package.events.all()]


def run(client: Client, action: str, *chosen: FirmwarePackage) -> Any:
    """Takes an action of the list, and confirms it where it asks."""
    pks = [package.pk for package in chosen]
    form = {"action": action, "_selected_action": pks, "post": "yes"}
    return client.post(LIST, form)


def purge(client: Client, package: FirmwarePackage) -> Any:
    """Presses "Delete the file", and again in the dialog."""
    return client.post(page(package, "purge_this"), {"_form_submitted": "on"})


# How it stands


def test_a_package_that_is_checked_says_so_and_is_followed(administrator: Client) -> None:
    package = make_package(state=PackageState.CHECKING)
    shown = text(administrator.get(page(package)))
    assert "Its bytes are being read." in shown
    assert f'data-package-state="{page(package, "state")}"' in shown
    assert administrator.get(page(package, "state")).json() == {"state": "checking"}


def test_a_package_that_waits_for_its_storage_says_why(administrator: Client) -> None:
    package = make_package(state=PackageState.CHECKING)
    packages.note(package, timezone.now(), "its file cannot be read now")
    assert "Its file cannot be read now." in text(administrator.get(page(package)))


def test_a_package_that_is_available_is_not_followed(administrator: Client) -> None:
    assert "data-package-state" not in text(administrator.get(page(make_package())))


def test_only_who_may_see_packages_may_follow_one(client: Client) -> None:
    url = page(make_package(), "state")
    client.force_login(User.objects.create_user("guest", is_staff=True))
    assert client.get(url).status_code == 403
    log_in(client, "Viewers")
    assert client.get(url).status_code == 200
    assert client.get(page(FirmwarePackage(pk=4711), "state")).status_code == 404


def test_what_is_wrong_stands_on_the_page_and_in_the_list(administrator: Client) -> None:
    broken = make_package(state=PackageState.DRAFT, problem="its bytes are <wrong>.")
    make_package("10.01.4000")
    assert "its bytes are &lt;wrong&gt;." in text(administrator.get(page(broken)))
    assert "Make available" not in text(administrator.get(page(broken)))
    assert 'title="its bytes are &lt;wrong&gt;."' in text(administrator.get(LIST))
    found = text(administrator.get(f"{LIST}?problem=yes"))
    assert broken.file_name in found
    assert "10.01.4000" not in found


@pytest.mark.parametrize("query", ["problem=maybe", "models__id__exact=999", "state__exact=lost"])
def test_a_filter_that_fits_no_package_does_not_show_them_all(
    administrator: Client, query: str
) -> None:
    package = make_package(models=("3-2-0",))
    response = administrator.get(f"{LIST}?{query}")
    assert response.status_code == 302 or package.file_name not in text(response)


def test_a_broken_package_is_not_made_available_and_the_reason_is_told(
    administrator: Client,
) -> None:
    package = make_package(state=PackageState.DRAFT, problem="its bytes are wrong.")
    reply = run(administrator, "make_available", package)
    assert "cannot be made available: its bytes are wrong." in told(reply)
    assert FirmwarePackage.objects.get().state == PackageState.DRAFT


def test_the_facts_name_the_whole_digest_and_the_exact_size(administrator: Client) -> None:
    package = make_package(size=1_500_000)
    shown = text(administrator.get(page(package)))
    assert str(package.sha256) in shown
    assert "1.4 MiB, 1,500,000 bytes" in shown


def test_a_package_leads_to_the_tasks_that_used_it(administrator: Client) -> None:
    task, other = make_task(), make_task(version="10.01.4000")
    package = task.targets.get().package
    shown = text(administrator.get(page(package)))
    assert f'href="/admin/ota/upgradetask/?package={package.pk}">1 upgrade task<' in shown
    tasks = text(administrator.get(f"/admin/ota/upgradetask/?package={package.pk}"))
    assert task.gateway.sn in tasks
    assert other.gateway.sn not in tasks


def test_release_notes_are_shown_without_what_could_do_harm(administrator: Client) -> None:
    package = make_package(notes="**New** <script>alert(1)</script>")
    shown = text(administrator.get(page(package)))
    assert "<strong>New</strong> &lt;script&gt;" in shown
    assert "<script>alert" not in shown


@pytest.mark.parametrize("number", [1, 30])
def test_a_page_costs_the_same_for_few_and_for_many_tasks(
    administrator: Client, number: int
) -> None:
    for _ in range(number):
        make_task()
    assert queries(administrator, page(FirmwarePackage.objects.get())) <= 20


# What people say about it


def test_each_change_is_a_line_of_history(administrator: Client) -> None:
    package = make_package(models=("3-2-0",), released_on=dt.date(2024, 11, 7))
    save(
        administrator,
        package,
        released_on="2024-11-08",
        minimum_version="10.01.16.07",
        notes="Secret",
        models=[make_model("0-91-0").pk],
    )
    assert history(package) == [
        "models added: Matrice 3D; models removed: DJI Dock 2; release date: 2024-11-07 -> 2024-11-08; "
        "needs first: nothing -> 10.01.1607; release notes changed"
    ]
    assert str(package.events.get().actor) == "administrators"
    package.refresh_from_db()
    assert (package.minimum_version, package.minimum_number) == ("10.01.1607", 10011607)


def test_saving_without_a_change_is_no_line_of_history(administrator: Client) -> None:
    package = make_package(notes="One\nTwo", minimum_version=OLD)
    save(administrator, package, notes="One\r\nTwo")
    assert history(package) == []


def test_saving_keeps_what_happened_meanwhile() -> None:
    package = make_package()
    FirmwarePackage.objects.update(state=PackageState.WITHDRAWN, problem="damaged")
    packages.change(package, {"notes": "New"}, timezone.now())
    package.refresh_from_db()
    assert (package.state, package.problem, package.notes) == ("withdrawn", "damaged", "New")


@pytest.mark.parametrize(
    ("minimum", "message"),
    [
        (NEW, "cannot need 10.01.3205 first, which is not older"),
        ("11.00.0000", "cannot need 11.00.0000 first, which is not older"),
        ("1.2", "is no firmware version"),
    ],
)
def test_a_minimum_that_makes_no_sense_stands_at_the_form(
    administrator: Client, minimum: str, message: str
) -> None:
    package = make_package(NEW)
    assert message in text(save(administrator, package, minimum_version=minimum))
    package.refresh_from_db()
    assert package.minimum_version == ""


def test_a_model_that_has_another_zip_of_this_version_is_refused(administrator: Client) -> None:
    make_package(NEW, models=("3-2-0",), size=99)
    package = make_package(NEW, models=("0-91-0",))
    reply = save(administrator, package, models=[make_model("3-2-0").pk])
    assert "has other content than" in text(reply)
    assert [model.key for model in package.models.all()] == ["0-91-0"]
    with pytest.raises(PackageRefused):
        packages.change(package, {"models": [make_model("3-2-0")]}, timezone.now())


def test_release_notes_have_an_end(administrator: Client) -> None:
    package = make_package(notes="One")
    save(administrator, package, notes="x" * 50_000)
    package.refresh_from_db()
    assert len(package.notes) == 50_000
    page = save(administrator, package, notes="x" * 50_001)
    assert "have 50,001 characters; at most 50,000 are kept" in text(page)
    package.refresh_from_db()
    assert len(package.notes) == 50_000


def test_the_notes_of_a_package_change_though_its_models_clash(administrator: Client) -> None:
    make_package(NEW, models=("3-2-0",), size=99)
    package = make_package(NEW, models=("3-2-0",))
    save(administrator, package, notes="New")
    package.refresh_from_db()
    assert package.notes == "New"


def test_waiting_upgrades_are_looked_at_anew_after_a_change() -> None:
    task = make_task(checked_at=timezone.now())
    packages.change(task.targets.get().package, {"minimum_version": OLD}, timezone.now())
    assert UpgradeTask.objects.get().checked_at is None


# Its history


def test_the_history_tells_who_did_what_and_when_newest_first(administrator: Client) -> None:
    package = make_package(state=PackageState.DRAFT)
    now = dt.datetime(2024, 11, 7, 10, 0, tzinfo=dt.UTC)
    packages.note(package, now, "all bytes checked <b>")
    run(administrator, "make_available", package)
    shown = text(administrator.get(page(package, "history")))
    assert "2024-11-07 10:00:00 UTC" in shown
    assert "all bytes checked &lt;b&gt;" in shown
    assert 0 < shown.index("made available") < shown.index("the system")


def test_a_long_history_has_pages(administrator: Client) -> None:
    package = make_package()
    lines = [PackageEvent(package=package, at=timezone.now(), text=f"line {n}.") for n in range(60)]
    PackageEvent.objects.bulk_create(lines)
    first = text(administrator.get(page(package, "history")))
    assert "line 59." in first
    assert "line 9." not in first
    assert "line 9." in text(administrator.get(f"{page(package, 'history')}?page=2"))
    assert queries(administrator, page(package, "history")) <= 10


def test_only_who_may_see_packages_reads_their_history(client: Client) -> None:
    url = page(make_package(), "history")
    client.force_login(User.objects.create_user("guest", is_staff=True))
    assert client.get(url).status_code == 403
    log_in(client, "Viewers")
    assert client.get(url).status_code == 200
    assert client.get(page(FirmwarePackage(pk=4711), "history")).status_code == 404


def test_a_product_codes_history_tells_its_models_before_and_after(administrator: Client) -> None:
    code = ProductCode.objects.create(code="wm9s2")
    code.models.set([make_model("3-2-0")])
    url = reverse("admin:ota_productcode_change", args=[code.pk])
    administrator.post(url, {"code": "wm9s3", "models": [make_model("3-3-0").pk]})
    shown = text(administrator.get(reverse("admin:ota_productcode_history", args=[code.pk])))
    assert "Models: DJI Dock 2 -&gt; DJI Dock 3. Code: wm9s2 -&gt; wm9s3." in shown


# What can be done


def test_withdrawing_names_the_first_upgrades_that_it_cancels(administrator: Client) -> None:
    night, day = make_rollout(name="Night"), make_rollout(name="Day")
    tasks = [make_task(rollout=night if n < 4 else day) for n in range(7)]
    reply = told(run(administrator, "withdraw", FirmwarePackage.objects.get()))
    assert "Canceled 7 upgrades: " in reply
    assert f"{tasks[0].gateway} in Night" in reply
    assert f"{tasks[4].gateway} in Day and 2 more." in reply
    assert not UpgradeTask.objects.exclude(status=TaskStatus.CANCELED).exists()


def test_the_file_of_a_withdrawn_package_is_deleted_and_its_row_stays(
    administrator: Client,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    package = make_package(state=PackageState.WITHDRAWN)
    assert "Delete the file" in text(administrator.get(page(package)))
    with django_capture_on_commit_callbacks(execute=True):
        purge(administrator, package)
    with pytest.raises(storage.FileMissing):
        storage.stat(str(package.file.name))
    assert "Its file is no longer kept" in text(administrator.get(page(package)))
    assert "its file was deleted" in history(package)


@pytest.mark.django_db(transaction=True)
def test_a_file_that_cannot_be_removed_now_is_left_to_clean_library_and_that_is_told(
    administrator: Client, storage_refuses: None
) -> None:
    package = make_package(state=PackageState.WITHDRAWN)
    reply = purge(administrator, package)
    assert reply.headers["HX-Redirect"] == page(package)
    assert told(reply) == (
        f"The file of {package} could not be removed now. manage.py clean_library removes it."
    )
    assert history(package) == ["its file could not be removed now; clean_library removes it"]
    assert "was deleted" not in text(administrator.get(page(package)))
    assert storage.path(str(package.file.name)).exists()


@pytest.mark.django_db(transaction=True)
def test_no_file_counts_as_deleted_while_the_folder_is_not_mounted(administrator: Client) -> None:
    package = make_package(state=PackageState.WITHDRAWN)
    storage.path(storage.FOLDER).rename(storage.path("away"))
    reply = purge(administrator, package)
    assert "could not be removed now" in told(reply)


@pytest.mark.django_db(transaction=True)
def test_a_package_goes_though_its_file_cannot_be_removed_now_and_that_is_told(
    administrator: Client, storage_refuses: None
) -> None:
    package = make_package(state=PackageState.DRAFT)
    reply = administrator.post(page(package, "delete"), {"post": "yes"})
    assert reply.status_code == 302
    assert not FirmwarePackage.objects.exists()
    shown = text(administrator.get(reply.headers["Location"]))
    assert f"The file of {package} could not be removed now." in shown


def test_a_file_that_was_replaced_may_stay_while_it_cannot_be_removed(
    storage_refuses: None,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    package = make_package(state=PackageState.DRAFT, problem="damaged")
    with django_capture_on_commit_callbacks(execute=True):
        assert changes.replace_file(package, "firmware/other.zip", timezone.now())
    package.refresh_from_db()
    assert package.file.name == "firmware/other.zip"


def test_a_file_that_an_open_upgrade_needs_stays(administrator: Client) -> None:
    make_task(status=TaskStatus.IN_PROGRESS)
    package = FirmwarePackage.objects.get()
    run(administrator, "withdraw", package)
    reply = purge(administrator, package)
    assert "is needed by 1 upgrade" in told(reply)
    assert storage.stat(str(package.file.name)).size


def test_a_package_that_a_worker_reads_is_not_deleted(administrator: Client) -> None:
    until = timezone.now() + dt.timedelta(minutes=1)
    package = make_package(state=PackageState.CHECKING, checked_until=until)
    url = page(package, "delete")
    assert "a worker is reading its bytes" in text(administrator.get(url))
    administrator.post(url, {"post": "yes"})
    assert FirmwarePackage.objects.exists()


def test_an_operator_deletes_no_file(client: Client) -> None:
    log_in(client, "Operators")
    package = make_package(state=PackageState.WITHDRAWN)
    assert purge(client, package).status_code == 403
    package.refresh_from_db()
    assert package.purged_at is None
