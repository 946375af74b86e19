"""The page that makes a package of what was uploaded."""

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoCaptureOnCommitCallbacks

from ota import storage
from ota.models import FirmwarePackage, Upload
from ota.states import PackageState
from tests.make import make_model
from tests.people import log_in, queries, staff, text, told
from tests.uploading import (
    ADD,
    add,
    bring,
    created,
    send,
    sha256,
)

pytestmark = pytest.mark.django_db


def test_a_package_is_added_and_checked_later(
    administrator: Client,
    dock2: bytes,
    redis_server: object,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    upload = bring(administrator, dock2)
    with django_capture_on_commit_callbacks(execute=True):
        reply = add(
            administrator, upload, models=[make_model("3-2-0").pk], minimum_version="10.01.1607"
        )
    package = FirmwarePackage.objects.get()
    assert reply.headers["Location"] == reverse(
        "admin:ota_firmwarepackage_change", args=[package.pk]
    )
    assert (package.version, package.state) == ("10.01.3205", PackageState.CHECKING)
    assert (package.minimum_version, str(package.created_by)) == ("10.01.1607", "administrators")
    assert package.sha256 == sha256(dock2)


def test_a_refusal_stands_at_its_field_and_keeps_the_upload(
    administrator: Client, dock2: bytes
) -> None:
    upload = bring(administrator, dock2)
    reply = add(administrator, upload, version="99.01.0000", models=[make_model("3-2-0").pk])
    form = reply.context_data["form"]
    assert "says that it is 10.01.3205" in form.errors["version"][0]
    assert "DOCK2.zip</strong>, <span data-size>29" in text(reply)
    assert 'value="99.01.0000"' in text(reply)
    add(administrator, upload, models=[make_model("3-2-0").pk])
    assert FirmwarePackage.objects.exists()


def test_who_has_to_name_the_models_is_told_where_codes_are_taught_and_of_no_command(
    administrator: Client, dock2: bytes
) -> None:
    reply = add(administrator, bring(administrator, dock2))
    (said,) = reply.context_data["form"].errors["models"]
    assert "stands for no device model yet" in said
    assert "--" not in said
    assert f'href="{reverse("admin:ota_productcode_add")}"' in text(reply)


def test_a_release_date_that_contradicts_the_zip_is_confirmed(
    administrator: Client, dock2: bytes
) -> None:
    upload, model = bring(administrator, dock2), make_model("3-2-0").pk
    assert 'name="confirmed"' not in text(administrator.get(ADD))
    reply = add(administrator, upload, models=[model], released_on="2025-01-01")
    assert 'name="confirmed"' in text(reply)
    add(administrator, upload, models=[model], released_on="2025-01-01", confirmed="on")
    assert FirmwarePackage.objects.get().released_on == dt.date(2025, 1, 1)


def test_a_draft_stays_a_draft(administrator: Client, dock2: bytes) -> None:
    add(administrator, bring(administrator, dock2), models=[make_model("3-2-0").pk], draft="on")
    assert FirmwarePackage.objects.get().opens_as_draft


@pytest.mark.parametrize("field", ["version", "minimum_version"])
def test_a_wrong_version_stands_at_its_field(
    administrator: Client, dock2: bytes, field: str
) -> None:
    reply = add(administrator, bring(administrator, dock2), **{field: "1.2"})
    assert "is no firmware version" in reply.context_data["form"].errors[field][0]


@pytest.mark.parametrize("group", ["Viewers", "Operators"])
def test_only_administrators_see_the_page(client: Client, group: str) -> None:
    log_in(client, group)
    assert client.get(ADD).status_code == 403


def test_a_file_that_is_no_package_is_refused_at_the_file_and_not_kept(
    administrator: Client,
) -> None:
    reply = add(administrator, bring(administrator, b"no zip at all"))
    assert "DOCK2.zip is no zip" in reply.context_data["form"].errors["upload"][0]
    assert reply.context_data["chosen"] is None
    assert "Use it" not in text(administrator.get(ADD))
    assert not Upload.objects.exists()


def test_a_file_that_is_not_whole_becomes_no_package(administrator: Client, dock2: bytes) -> None:
    send(administrator, created(administrator, len(dock2)), 0, dock2[:1000])
    reply = add(administrator, Upload.objects.get())
    assert "has not arrived whole" in text(reply)
    assert "choose the file again to go on" in text(reply)


@pytest.mark.parametrize("chosen", ["", "x", "00000000-0000-4000-8000-000000000000"])
def test_without_a_file_nothing_is_added(administrator: Client, chosen: str) -> None:
    reply: Any = administrator.post(ADD, {"upload": chosen})
    assert reply.context_data["form"].errors["upload"]


def test_another_persons_file_is_not_added(administrator: Client, dock2: bytes) -> None:
    upload = bring(administrator, dock2)
    reply = add(staff("add_firmwarepackage", "view_firmwarepackage"), upload)
    assert "is not here any more" in text(reply)
    assert not FirmwarePackage.objects.exists()


def test_the_same_bytes_are_added_once(administrator: Client, dock2: bytes) -> None:
    model = make_model("3-2-0").pk
    add(administrator, bring(administrator, dock2), models=[model])
    reply = add(administrator, bring(administrator, dock2, modified="2"), models=[model])
    assert "in the library already" in told(reply)
    assert not Upload.objects.exists()


def test_the_same_bytes_bring_back_a_file_that_is_gone(administrator: Client, dock2: bytes) -> None:
    model = make_model("3-2-0").pk
    add(administrator, bring(administrator, dock2), models=[model])
    FirmwarePackage.objects.update(state=PackageState.AVAILABLE)
    storage.path(str(FirmwarePackage.objects.get().file.name)).unlink()
    add(administrator, bring(administrator, dock2, modified="2"), models=[model])
    package = FirmwarePackage.objects.get()
    assert package.state == PackageState.CHECKING
    assert storage.path(str(package.file.name)).read_bytes() == dock2
    assert not Upload.objects.exists()


def test_a_package_is_added_while_redis_is_away(
    administrator: Client,
    dock2: bytes,
    redis_server: Any,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    upload = bring(administrator, dock2)
    redis_server.stop()
    with django_capture_on_commit_callbacks(execute=True):
        reply = add(administrator, upload, models=[make_model("3-2-0").pk])
    assert reply.status_code == 302
    assert FirmwarePackage.objects.get().state == PackageState.CHECKING  # by the clock


def test_what_is_unfinished_is_listed_for_its_owner(administrator: Client, dock2: bytes) -> None:
    url = created(administrator, 1000, name="Dock3.zip")
    send(administrator, url, 0, bytes(430))
    bring(administrator, dock2)
    shown = text(administrator.get(ADD))
    assert "Dock3.zip<small>43 % of 1000" in shown
    assert "DOCK2.zip<small>29" in shown
    assert "Dock3.zip" not in text(staff("add_firmwarepackage").get(ADD))


def test_a_finished_upload_can_be_taken_up_later(administrator: Client, dock2: bytes) -> None:
    upload = bring(administrator, dock2)
    shown = text(administrator.get(f"{ADD}?upload={upload.pk}"))
    assert "DOCK2.zip</strong>" in shown
    assert f'value="{upload.pk}"' in shown


def test_the_page_costs_the_same_for_few_and_for_many_uploads(administrator: Client) -> None:
    created(administrator, 100)
    few = queries(administrator, ADD)
    for number in range(20):
        created(administrator, 100, modified=f"m{number}")
    assert queries(administrator, ADD) == few
