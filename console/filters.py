"""Filters of lists: what one is told and cannot follow must never show everything instead.

All of a list can be chosen for an action, so that an old bookmark would mean the whole fleet.
"""

from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest

if TYPE_CHECKING:
    from django.contrib.admin import ChoicesFieldListFilter as ChoicesDropdownFilter
    from django.contrib.admin import RelatedFieldListFilter as RelatedDropdownFilter
    from django.contrib.admin import SimpleListFilter as DropdownFilter

else:
    # Untyped; their classes extend Django's.
    from unfold.contrib.filters.admin import (
        ChoicesDropdownFilter,
        DropdownFilter,
        RelatedDropdownFilter,
    )


class ChoiceFilter(DropdownFilter):
    """A filter with its own choices, which refuses what is none of them."""

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        value = self.value()
        if value and not self.knows(value):
            raise IncorrectLookupParameters

    def knows(self, value: str) -> bool:
        """Whether it can be asked for: what is offered can."""
        return value in {str(choice) for choice, _ in self.lookup_choices}


class OrNone:
    """For unfold's filters of a field, which forget that rows may be wanted that have no value."""

    used_parameters: dict[str, Any]
    lookup_kwarg_isnull: str

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        for wanted in self.used_parameters.get(self.lookup_kwarg_isnull, [])[-1:]:
            queryset = queryset.filter(**{self.lookup_kwarg_isnull: wanted})
        found: QuerySet[Any] | None = super().queryset(request, queryset)  # type: ignore[misc]  # the filter's
        return found


class ValueFilter(OrNone, ChoicesDropdownFilter):
    """One of the values that a field can have; any other finds nothing."""


class OneOfFilter(OrNone, RelatedDropdownFilter):
    """Also where there is only one to choose: else its links would show everything."""

    def has_output(self) -> bool:
        return True
