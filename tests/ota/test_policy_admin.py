"""An organization's rollout policy in the console: what it says, and what it refuses."""

from typing import Any

import pytest
from django.test import Client

from ota import rollouts
from ota.forms import RolloutForm
from ota.models import OrganizationPolicy, Policy
from tests.make import make_organization
from tests.people import context, queries, staff, text

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/organizationpolicy/"
ADD = f"{LIST}add/"


@pytest.fixture
def administrator() -> Client:
    return staff(
        *("view_organizationpolicy", "add_organizationpolicy", "change_organizationpolicy"),
        "view_organization",
    )


def form(**fields: Any) -> dict[str, Any]:
    """What a browser sends for a policy with the defaults."""
    defaults = {field.name: field.get_default() for field in Policy._meta.fields}
    told = defaults | {"organization": make_organization().pk, "approval_above": ""} | fields
    return {name: value for name, value in told.items() if value is not None and value is not False}


def errors(client: Client, **fields: Any) -> Any:
    """What the form says against a policy, by field."""
    response: Any = client.post(ADD, form(**fields))
    return response.context_data["adminform"].form.errors


def test_a_policy_is_made(administrator: Client) -> None:
    fields = {"waves": "1, 10%, rest", "windows": "daily 22:00-05:00", "approval_above": 20}
    response = administrator.post(ADD, form(**fields))
    assert response.status_code == 302
    policy = OrganizationPolicy.objects.get()
    assert {name: getattr(policy, name) for name in fields} == fields
    usual = rollouts.usual_policy([policy.organization_id, None])
    assert usual["waves"] == "1, 10%, rest"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("waves", "1, 10%", "the waves leave docks over"),
        ("waves", "0%, rest", "expected 1% to 100%"),
        ("waves", "101%", "expected 1% to 100%"),
        ("waves", "60%, 60%", "the waves make 120 % of the docks"),
        ("waves", ",".join(["1"] * 999), "Ensure this value has at most 300 characters"),
        ("windows", "Mon 25:00-26:00", "has a time that is none"),
        ("windows", "Mon 08:00-08:00", "never opens"),
        ("windows", "Mon 08:00-08:10", "The hours last 10 min in a row at most"),
        ("gate", 0, "greater than or equal to 1"),
        ("gate_first", 101, "less than or equal to 100"),
        ("max_failed_percent", 101, "less than or equal to 100"),
        ("limit_in_flight", 0, "greater than or equal to 1"),
        ("limit_per_site", 0, "greater than or equal to 1"),
        ("expected_minutes", 0, "greater than or equal to 1"),
        ("organization", "", "This field is required"),
    ],
)
def test_what_makes_no_sense_is_told_at_its_field(
    administrator: Client, field: str, value: Any, told: str
) -> None:
    assert told in " ".join(errors(administrator, **{field: value})[field])
    assert not OrganizationPolicy.objects.exists()


@pytest.mark.parametrize("name", rollouts.FIELDS)
def test_the_form_asks_for_each_field_of_a_policy(administrator: Client, name: str) -> None:
    assert f'name="{name}"' in text(administrator.get(ADD))


def test_an_organization_has_one_policy(administrator: Client) -> None:
    policy = OrganizationPolicy.objects.create(organization=make_organization())
    assert "organization" in errors(administrator, organization=policy.organization_id)


def test_a_new_policy_begins_with_the_installations_limit(
    administrator: Client, settings: Any
) -> None:
    settings.LIMIT_IN_FLIGHT = 7
    assert context(administrator, ADD)["adminform"].form["limit_in_flight"].value() == "7"


def test_the_list_costs_the_same_for_one_and_for_twenty(administrator: Client) -> None:
    OrganizationPolicy.objects.create(organization=make_organization())
    few = queries(administrator, LIST)
    for _ in range(19):
        OrganizationPolicy.objects.create(organization=make_organization())
    assert queries(administrator, LIST) == few


def test_the_page_is_in_the_sidebar_for_those_who_may_see_it(administrator: Client) -> None:
    assert "Rollout policies" in text(administrator.get("/admin/"))
    assert "Rollout policies" not in text(staff("view_rollout").get("/admin/"))


def test_who_lacks_the_permission_changes_nothing() -> None:
    assert staff("view_organizationpolicy").post(ADD, form()).status_code == 403


def test_a_policy_has_the_words_of_the_launch_form(administrator: Client) -> None:
    asked = context(administrator, ADD)["adminform"].form
    launch = RolloutForm.base_fields
    shared = asked.fields.keys() & launch.keys()
    assert {name: asked[name].label for name in shared} == {n: launch[n].label for n in shared}
    OrganizationPolicy.objects.create(organization=make_organization())
    listed = text(administrator.get(LIST))
    assert "Docks at a time" in listed
    assert "Limit in flight" not in listed
