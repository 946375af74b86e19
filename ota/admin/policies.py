"""What the rollouts of an organization have unless somebody chooses otherwise, in the console."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Field
from django.forms import Field as FormField
from django.http import HttpRequest

from console.prefilled import PrefilledAdmin
from ota.models import OrganizationPolicy
from ota.rollouts import LABELS


@admin.register(OrganizationPolicy)
class OrganizationPolicyAdmin(PrefilledAdmin[OrganizationPolicy]):
    list_display = [
        *("organization", "in_waves", "in_hours", "at_a_time", "max_failed_percent"),
        "approval_above",
    ]
    list_select_related = ["organization"]
    search_fields = ["organization__name", "organization__identifier"]
    autocomplete_fields = ["organization"]
    warn_unsaved_form = True
    fieldsets = [
        (None, {"fields": ["organization", "approval_above"]}),
        (
            "Waves",
            {"fields": ["waves", "gate_first", "gate", "soak_minutes", "asks_between_waves"]},
        ),
        ("Hours", {"fields": ["windows", "expected_minutes", "keeps_open"]}),
        ("Limits", {"fields": ["limit_in_flight", "limit_per_site", "jitter_seconds"]}),
        ("By the system", {"fields": ["starts_consistency"]}),
        ("Stops", {"fields": ["max_failed", "max_failed_percent", "failed_after"]}),
    ]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, str | list[str]]:
        initial = super().get_changeform_initial_data(request)
        return {"limit_in_flight": str(settings.LIMIT_IN_FLIGHT)} | initial

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> FormField | None:
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        if found and db_field.name in LABELS:
            found.label = LABELS[db_field.name]
        return found

    @admin.display(description=LABELS["limit_in_flight"], ordering="limit_in_flight")
    def at_a_time(self, policy: OrganizationPolicy) -> int:
        return policy.limit_in_flight

    @admin.display(description="waves", ordering="waves")
    def in_waves(self, policy: OrganizationPolicy) -> str:
        return policy.waves or "one"

    @admin.display(description="hours", ordering="windows")
    def in_hours(self, policy: OrganizationPolicy) -> str:
        return policy.windows or "any"
