"""The console's pages of packages: add, make available, withdraw, delete."""

from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoCaptureOnCommitCallbacks

from ota.models import FirmwarePackage
from ota.states import PackageState, TaskStatus
from tests.make import make_dock, make_model, make_package, make_task
from tests.people import log_in, text, told

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/firmwarepackage/"


def page(package: FirmwarePackage) -> str:
    return reverse("admin:ota_firmwarepackage_change", args=[package.pk])


def run(client: Client, action: str, *packages: FirmwarePackage, **more: str) -> Any:
    form = {"action": action, "_selected_action": [package.pk for package in packages]}
    return client.post(LIST, form | more)


def test_the_list_tells_state_models_and_fingerprint(client: Client) -> None:
    log_in(client, "Viewers")
    package = make_package(models=("3-2-0",))
    shown = text(client.get(LIST))
    for words in (package.file_name, "Available", package.md5[:8], make_model("3-2-0").name):
        assert words in shown


def test_what_the_bytes_say_is_not_changed_by_a_form(administrator: Client) -> None:
    package = make_package("10.01.3205", models=("3-2-0",))
    form = {"models": [make_model("3-2-0").pk], "notes": "Better", "version": "1", "md5": "0"}
    administrator.post(page(package), form | {"state": "draft"})
    changed = FirmwarePackage.objects.get()
    assert changed.notes == "Better"
    assert (changed.version, changed.md5) == (package.version, package.md5)
    assert changed.state == PackageState.AVAILABLE


def test_a_draft_is_made_available(administrator: Client) -> None:
    package = make_package(state=PackageState.DRAFT)
    run(administrator, "make_available", package)
    package.refresh_from_db()
    assert package.state == PackageState.AVAILABLE


def test_a_withdrawn_package_does_not_come_back(administrator: Client) -> None:
    package = make_package(state=PackageState.WITHDRAWN)
    reply = run(administrator, "make_available", package)
    package.refresh_from_db()
    assert package.state == PackageState.WITHDRAWN
    assert "is withdrawn, not a draft" in told(reply)


def test_withdrawing_asks_first_and_tells_what_it_cancels(administrator: Client) -> None:
    task, other = make_task(make_dock()), make_package("11.00.0001", file_name="other.zip")
    make_task(make_dock(), status=TaskStatus.IN_PROGRESS)
    gone = make_package("09.00.0001", file_name="gone.zip", state=PackageState.WITHDRAWN)
    needed = FirmwarePackage.objects.exclude(pk__in=[other.pk, gone.pk]).get()
    shown = text(run(administrator, "withdraw", needed, other, gone))
    assert "Withdraw 2 packages for good?" in shown
    assert "The same zip added again stays withdrawn." in shown
    assert "1 upgrade that waits for them will be canceled." in shown
    assert needed.file_name in shown
    assert "other.zip" in shown
    assert "gone.zip" not in shown
    task.refresh_from_db()
    assert task.status == TaskStatus.PENDING
    assert not FirmwarePackage.objects.exclude(pk=gone.pk).filter(state="withdrawn").exists()


def test_what_is_withdrawn_already_is_not_asked_about(administrator: Client) -> None:
    shown = text(run(administrator, "withdraw", make_package(state=PackageState.WITHDRAWN)))
    assert "withdrawn already" in shown
    assert 'name="post"' not in shown


def test_a_whole_list_is_withdrawn_as_far_as_it_was_shown(administrator: Client) -> None:
    shown, later = make_package("10.01.0001"), make_package("10.01.0002")
    page = text(run(administrator, "withdraw", shown, select_across="1", index="0"))
    assert f'name="_selected_action" value="{later.pk}"' in page
    run(administrator, "withdraw", shown, post="yes")
    later.refresh_from_db()
    assert later.state == PackageState.AVAILABLE


def test_withdrawing_cancels_what_waits(administrator: Client) -> None:
    task = make_task(make_dock())
    reply = run(administrator, "withdraw", FirmwarePackage.objects.get(), post="yes")
    task.refresh_from_db()
    assert task.status == TaskStatus.CANCELED
    assert "Canceled 1 upgrade:" in told(reply)


def test_a_packages_page_makes_it_available(administrator: Client) -> None:
    package = make_package(state=PackageState.DRAFT)
    url = reverse("admin:ota_firmwarepackage_make_this_available", args=[package.pk])
    reply = administrator.post(url, {"_form_submitted": "on"})
    package.refresh_from_db()
    assert package.state == PackageState.AVAILABLE
    assert reply.headers["HX-Redirect"] == page(package)


def test_a_packages_page_withdraws_it_after_the_same_question(administrator: Client) -> None:
    make_task(make_dock())
    package = FirmwarePackage.objects.get()
    url = reverse("admin:ota_firmwarepackage_withdraw_this", args=[package.pk])
    assert f'href="{url}"' in text(administrator.get(page(package)))
    shown = text(administrator.get(url))
    assert "Withdraw 1 package for good?" in shown
    assert "1 upgrade that waits for it will be canceled." in shown
    package.refresh_from_db()
    assert package.state == PackageState.AVAILABLE
    reply = administrator.post(url, {"post": "yes"})
    package.refresh_from_db()
    assert package.state == PackageState.WITHDRAWN
    assert reply.headers["Location"] == page(package)


def test_a_packages_page_offers_what_its_state_allows(administrator: Client) -> None:
    shown = text(administrator.get(page(make_package(state=PackageState.WITHDRAWN))))
    assert "Make available" not in shown
    assert "withdraw/" not in shown


def test_an_operator_may_not_withdraw(client: Client) -> None:
    log_in(client, "Operators")
    package = make_package()
    run(client, "withdraw", package, post="yes")
    url = reverse("admin:ota_firmwarepackage_withdraw_this", args=[package.pk])
    assert client.post(url, {"post": "yes"}).status_code == 403
    package.refresh_from_db()
    assert package.state == PackageState.AVAILABLE


def test_a_package_that_was_used_is_not_deleted(administrator: Client) -> None:
    make_task(make_dock())
    package = FirmwarePackage.objects.get()
    url = reverse("admin:ota_firmwarepackage_delete", args=[package.pk])
    assert "Withdraw it instead." in text(administrator.get(url))
    administrator.post(url, {"post": "yes"})
    assert FirmwarePackage.objects.exists()


def test_a_package_that_was_never_used_goes_with_its_file(
    administrator: Client,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    package = make_package()
    with django_capture_on_commit_callbacks(execute=True):
        run_delete = {"action": "delete_selected", "_selected_action": [package.pk], "post": "yes"}
        administrator.post(LIST, run_delete)
    assert not FirmwarePackage.objects.exists()
    assert not default_storage.exists(str(package.file.name))


def test_the_list_costs_the_same_for_few_and_for_many(
    administrator: Client, django_assert_max_num_queries: Any
) -> None:
    costs = []
    for number in (3, 20):
        for n in range(number):
            make_package(f"10.{number:02}.{n:04}")
        with django_assert_max_num_queries(30) as queries:
            administrator.get(LIST)
        costs.append(len(queries))
    assert costs[0] == costs[1]
