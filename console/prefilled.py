"""Forms of the console whose choices are looked up while somebody types.

An address may fill them in, such as ``?organization=1``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib.admin.widgets import AutocompleteSelect, AutocompleteSelectMultiple
from django.db.models import ForeignKey, ManyToManyField, Model
from django.http import HttpRequest

from console.keys import is_key
from console.lists import ListAdmin

M = TypeVar("M", bound=Model)

if TYPE_CHECKING:
    from django.contrib.admin.widgets import AutocompleteMixin
else:
    AutocompleteMixin = object


class _OfKeys(AutocompleteMixin):
    """Looks up nothing that no row can have: that would raise."""

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        return super().optgroups(name, [key for key in value if is_key(key)], attr)


class _One(_OfKeys, AutocompleteSelect):
    pass


class _Some(_OfKeys, AutocompleteSelectMultiple):
    pass


class PrefilledAdmin(ListAdmin[M]):
    """What was named and is no row is not among its choices, whether an address or a form named it."""

    def formfield_for_foreignkey(
        self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> forms.ModelChoiceField[Any] | None:
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs["widget"] = _One(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_manytomany(
        self, db_field: "ManyToManyField[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> forms.ModelMultipleChoiceField[Any] | None:
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs["widget"] = _Some(db_field, self.admin_site)
        return super().formfield_for_manytomany(db_field, request, **kwargs)
