"""The console's forms of the fleet."""

import zoneinfo
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.template.defaultfilters import pluralize
from unfold.widgets import UnfoldAdminSelect2Widget, UnfoldAdminSelectWidget

from console.counts import count
from fleet.models import Device, Organization, Site

if TYPE_CHECKING:
    from django.forms import Form as AutocompleteDropdownForm
else:
    from unfold.contrib.filters.forms import AutocompleteDropdownForm  # untyped; extends Django's


class AdoptForm(forms.Form):
    """Into which organization unclaimed devices go."""

    organization = forms.ModelChoiceField(
        Organization.objects.all(), widget=UnfoldAdminSelectWidget, empty_label="Choose …"
    )


class _SaysAll(AutocompleteSelect):
    def build_attrs(
        self, base_attrs: dict[str, Any], extra_attrs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return super().build_attrs(base_attrs, extra_attrs) | {"data-placeholder": "All"}


class TypedFilterForm(AutocompleteDropdownForm):
    """A filter whose choices are looked up while somebody types."""

    widget = _SaysAll


class SiteForm(forms.ModelForm[Site]):
    """A site; its time zone is one that this computer knows."""

    class Meta:
        model = Site
        fields = ["organization", "name", "time_zone"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "time_zone" in self.fields:
            self.fields["time_zone"] = forms.ChoiceField(
                choices=[(name, name) for name in sorted(zoneinfo.available_timezones())],
                initial="UTC",
                widget=UnfoldAdminSelect2Widget,
            )

    def clean_organization(self) -> Organization:
        """A device stands only at sites of its own organization."""
        chosen: Organization = self.cleaned_data["organization"]
        if self.instance._state.adding or "organization" not in self.changed_data:
            return chosen
        strangers = Device.objects.filter(site=self.instance).exclude(organization=chosen).count()
        if strangers:
            raise ValidationError(
                f"{count(strangers, 'device')} of another organization "
                f"stand{pluralize(strangers, 's,')} here. Choose another site for "
                f"{pluralize(strangers, 'it,them')} first, or none."
            )
        return chosen


class DeviceForm(forms.ModelForm[Device]):
    """What people say about a device; everything else it says itself."""

    class Meta:
        model = Device
        fields = ["callsign", "site"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        site = self.fields.get("site")
        if isinstance(site, forms.ModelChoiceField):
            site.queryset = Site.objects.filter(organization=self.instance.organization_id)
            site.help_text = "The sites of the device's organization."
