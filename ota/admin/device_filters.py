"""How the console's list of devices is filtered by need and by firmware."""

from typing import Any

from django.core.cache import cache
from django.db.models import QuerySet
from django.http import HttpRequest

from console.filters import ChoiceFilter
from console.keys import is_key
from fleet import versions
from fleet.models import Device
from ota import needs
from ota.needs import Need

# Each need with its label and its colour.
NEEDS = {
    Need.REGULAR: ("Upgrade", "warning"),
    Need.CONSISTENCY: ("Consistency", "info"),
    Need.NONE: ("Up to date", "success"),
    Need.UNKNOWN: ("Unknown", ""),
    Need.DOWNGRADE: ("Newer than library", ""),
}
WANTING = {Need.REGULAR, Need.CONSISTENCY}
ANY = "any"  # the filter's word for both
# A version that is new may be missing from the choices for so long; all devices are read for them.
REMEMBERED = 30  # s


class NeedFilter(ChoiceFilter):
    title = "need"
    parameter_name = "need"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            (ANY, "Any upgrade"),
            *((need.value, text) for need, (text, _) in NEEDS.items()),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        value = self.value()
        if not value:
            return queryset
        return needs.having(queryset, *(WANTING if value == ANY else [Need(value)]))


class VersionFilter(ChoiceFilter):
    """By the version as a number, so that its spellings are one choice."""

    title = "firmware"
    parameter_name = "firmware_number"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        numbers: list[int] = []
        if not getattr(request, "is_choice", False):  # for an action nobody looks at the choices
            numbers = cache.get_or_set("ota.reported_versions", _reported, REMEMBERED) or []
        choices = [(str(number), versions.text(number)) for number in numbers]
        return [*choices, ("0", "Not readable"), ("none", "Not reported")]

    def knows(self, value: str) -> bool:
        """Also a version that no device has any more, or that is too new to be offered."""
        return value == "none" or is_key(value)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(firmware_number=None if value == "none" else value)


def _reported() -> list[int]:
    """The versions that devices have, as numbers, newest first."""
    reported = Device.objects.filter(firmware_number__gt=0).order_by("-firmware_number")
    numbers = reported.values_list("firmware_number", flat=True).distinct()
    return [number for number in numbers if number]
