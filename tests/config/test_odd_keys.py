"""Keys and numbers that no row can have, in addresses of all lists and in what is posted."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.forms import BaseForm, ModelChoiceField
from django.test import Client
from django.urls import reverse

from config import urls
from fleet.models import Device
from ota.models import Rollout, UpgradeTask
from tests.make import make_aircraft, make_dock, make_organization, make_rollout, make_task
from tests.people import told

pytestmark = pytest.mark.django_db

HUGE = "9" * 30  # more than any database's integer holds
LONG = "9" * 5000  # more digits than Python makes a number of

assert urls.urlpatterns  # with them come the lists
LISTS: list[tuple[Any, Any]] = list(admin.site._registry.items())
NAMES = [model._meta.label_lower for model, _ in LISTS]
LOOKUPS: dict[Any, tuple[str, ...]] = {
    models.AutoField: ("__in", "__range"),
    models.ForeignKey: ("", "__in", "__id__exact", "__id__in"),
    models.ManyToManyField: ("", "__in", "__id__in"),
    models.IntegerField: ("__exact", "__in", "__range"),
    models.DateField: ("__year", "__year__in", "__day__in"),
}


@pytest.fixture
def chief(client: Client, admin_user: User) -> Client:
    client.force_login(admin_user)
    return client


def _lookups(model: type[models.Model]) -> Iterator[str]:
    """Of one field of each kind."""
    fields = [*model._meta.fields, *model._meta.many_to_many]
    for kind, endings in LOOKUPS.items():
        first = next((field.name for field in fields if isinstance(field, kind)), None)
        yield from (f"{first}{ending}" for ending in endings if first)
    yield "pk__in"


def _listed(response: Any) -> list[Any]:
    """The rows of a list; none where it says that the filter was wrong."""
    if response.status_code == 302:
        assert response["Location"].endswith("?e=1")
        return []
    assert response.status_code == 200
    return list(response.context_data["cl"].result_list)


@pytest.mark.parametrize("value", [HUGE, f"9_{HUGE},-{HUGE}"], ids=["one", "two"])
@pytest.mark.parametrize("model", [model for model, _ in LISTS], ids=NAMES)
def test_a_list_filtered_by_a_number_that_no_row_has_shows_none(
    chief: Client, model: type[models.Model], value: str
) -> None:
    page = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    for lookup in _lookups(model):
        assert _listed(chief.get(page, {lookup: value})) == [], lookup


def test_a_list_filtered_by_keys_that_rows_have_shows_them(chief: Client) -> None:
    dock = make_dock()
    make_aircraft(dock)
    for address in (f"?pk__in={dock.pk}", f"?gateway__isnull=1&id__in={dock.pk},0"):
        assert _listed(chief.get(f"/admin/fleet/device/{address}")) == [dock]


def test_a_list_whose_filter_names_half_a_range_says_that_it_was_wrong(
    chief: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = chief.get("/admin/fleet/device/?sn__range=1")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/fleet/device/?e=1")
    assert "a filter of fleet.Device cannot be asked for" in caplog.text


def _actions() -> Iterator[Any]:
    for model, page in LISTS:
        if page.actions is None or model in {Rollout, UpgradeTask}:  # nobody deletes these
            continue
        for _, name, _ in page._get_base_actions():
            yield pytest.param(model, name, id=f"{model._meta.label_lower}-{name}")


@pytest.mark.parametrize("said", [{"index": "0"}, {}, {"post": "yes"}], ids=["list", "bare", "yes"])
@pytest.mark.parametrize(("model", "action"), list(_actions()))
def test_an_action_on_what_can_be_no_row_does_nothing(
    chief: Client, model: type[models.Model], action: str, said: dict[str, str]
) -> None:
    page = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    sent = {"action": action, "_selected_action": [HUGE, f"-{HUGE}", LONG, "abc", "", "²"], **said}
    answer = chief.post(page, sent)
    assert answer.status_code in {200, 302}
    assert "must be selected" in told(answer) or "index" not in said


def test_an_action_takes_those_that_are_rows(chief: Client) -> None:
    gone, kept = make_dock(), make_dock()
    sent = {"action": "delete_selected", "_selected_action": [str(gone.pk), HUGE], "post": "yes"}
    chief.post("/admin/fleet/device/", sent)
    assert list(Device.objects.all()) == [kept]


@pytest.mark.parametrize("verb", ["retry", "dismiss", "open-wave"])
def test_a_button_of_a_rollout_takes_no_number_that_nothing_has(chief: Client, verb: str) -> None:
    rollout = make_rollout()
    for key in (HUGE, LONG, "abc", "²"):
        page = f"/admin/ota/rollout/{rollout.pk}/{verb}/"
        assert chief.post(page, {"task": [key], "wave": key}).status_code == 302
        lost = f"/admin/ota/rollout/{key}/{verb}/"
        assert chief.post(lost).status_code in {302, 404}


def test_choices_of_notices_for_what_can_be_no_organization_are_not_found(chief: Client) -> None:
    for key in (HUGE, LONG, "abc", "²"):
        page = f"/admin/ota/notice/settings/?organization={key}"
        assert chief.post(page, {"forget": "1"}).status_code == 404


def _doors(model: type[models.Model]) -> Iterator[str]:
    """The pages of a model's rows that have a form."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    yield reverse(f"{name}_add")
    if row := model._default_manager.first():
        yield reverse(f"{name}_change", args=[row.pk])


def _form(response: Any) -> BaseForm | None:
    context = getattr(response, "context_data", None) or {}
    form = context["adminform"].form if "adminform" in context else context.get("form")
    return form if isinstance(form, BaseForm) else None


@pytest.mark.parametrize("model", [model for model, _ in LISTS], ids=NAMES)
def test_a_form_that_names_what_can_be_no_row_says_so(
    chief: Client, model: type[models.Model]
) -> None:
    make_task(make_dock(organization=make_organization()))
    for page in _doors(model):
        form = _form(chief.get(page))
        fields = form.fields.items() if form else ()
        for name in [name for name, field in fields if isinstance(field, ModelChoiceField)]:
            for key in (HUGE, f"-{HUGE}", LONG, "abc", "²"):
                said = _form(chief.post(page, {name: [key], "upload": ""}))
                assert said, (page, name, key[:40])
                assert said.errors[name], (page, name, key[:40])


def test_devices_are_adopted_into_no_organization_that_there_cannot_be(chief: Client) -> None:
    stray = make_dock(organization=None)
    for key in (HUGE, LONG, "abc", "²"):
        sent = {"pks": str(stray.pk), "organization": key}
        said = _form(chief.post("/admin/fleet/device/adopt/", sent))
        assert said
        assert "organization" in said.errors
