"""A rollout once more: the launch form begins with its choices, for the rest of the fleet.

The rest is a list of devices like any other, by the filter ``rest_of``.
"""

from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse

from console.keys import key
from fleet.models import Device
from fleet.selection import Selection
from ota import rollouts
from ota.admin.criteria import NEUTRAL
from ota.models import Rollout

if TYPE_CHECKING:
    from django.contrib.admin import SimpleListFilter as DropdownFilter
else:
    from unfold.contrib.filters.admin import DropdownFilter  # untyped; extends Django's

REST_OF = "rest_of"


def address(rollout: Rollout) -> str:
    """The launch form for the rest of a rollout."""
    chosen = Selection(query=f"{REST_OF}={rollout.pk}")
    return chosen.url(reverse("admin:fleet_device_upgrade"))


def original(request: HttpRequest, chosen: Selection) -> Rollout | None:
    """The rollout of which all the rest is chosen; none for any other list, also for a part of the rest."""
    params = {name: value for name, value in QueryDict(chosen.query or "").items() if value}
    if params.keys() - NEUTRAL != {REST_OF}:
        return None
    return _shown(request, str(params[REST_OF]))


def _shown(request: HttpRequest, pk: str) -> Rollout | None:
    """The rollout, for those who may see it."""
    if not request.user.has_perm("ota.view_rollout"):
        return None
    return Rollout.objects.filter(pk=key(pk)).first()


class RestFilter(DropdownFilter):
    """Reached by a link alone, so that there is one choice; what is no rollout has no rest."""

    title = "clone"
    parameter_name = REST_OF

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = self.value()
        if not chosen:
            return []
        rollout = _shown(request, chosen)
        return [(chosen, f"The rest of {rollout}" if rollout else "No such rollout")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        chosen = self.value()
        if not chosen:
            return queryset
        rollout = _shown(request, chosen)
        return rollouts.rest_of(rollout, queryset) if rollout else queryset.none()
