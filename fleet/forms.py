"""The console's forms of the fleet."""

import zoneinfo
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelect2Widget, UnfoldAdminSelectWidget

from fleet.models import Device, Organization, Site


class AdoptForm(forms.Form):
    """Into which organization unclaimed devices go."""

    organization = forms.ModelChoiceField(
        Organization.objects.all(), widget=UnfoldAdminSelectWidget, empty_label="Choose …"
    )


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
