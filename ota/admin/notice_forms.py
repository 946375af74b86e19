"""Forms of what people and other systems are told."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib.auth.models import User
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from fleet.models import Organization
from ota.models import Preference, Webhook
from ota.models.notices import Kind, Whose
from ota.notices import addresses, wishes

# Nobody's own.
PACKAGES = [(Whose.ALL.value, "All packages"), (Whose.NONE.value, Whose.NONE.label)]
CHANNELS = {"console": wishes.CONSOLE, "email": wishes.EMAIL}


class PreferenceForm(forms.ModelForm[Preference]):
    """For each kind of news: of whose rollouts, in the console and by e-mail; quiet hours in general."""

    class Meta:
        model = Preference
        fields = ["quiet_hours", "time_zone"]
        widgets = {
            "quiet_hours": UnfoldAdminTextInputWidget,
            "time_zone": UnfoldAdminTextInputWidget,
        }

    def __init__(self, user: User, organization: Organization | None, data: Any = None) -> None:
        self.stored = Preference.objects.filter(user=user, organization=organization).first()
        super().__init__(
            data, instance=self.stored or Preference(user=user, organization=organization)
        )
        for channel, defaults in CHANNELS.items():
            chosen = getattr(self.instance, channel) if self.stored else defaults
            for kind in Kind:
                self.fields[f"{channel}_{kind.value}"] = forms.ChoiceField(
                    choices=PACKAGES if kind == Kind.DAMAGED else Whose.choices,
                    initial=chosen.get(kind.value, defaults[kind]),
                    widget=UnfoldAdminSelectWidget(
                        attrs={"aria-label": f"{kind.label}, {channel}"}
                    ),
                )
        if organization:  # the general ones count
            del self.fields["quiet_hours"], self.fields["time_zone"]

    def rows(self) -> Iterator[tuple[str, list[forms.BoundField]]]:
        """A line for each kind of news, a field for each channel."""
        for kind in Kind:
            yield kind.label, [self[f"{channel}_{kind.value}"] for channel in CHANNELS]

    def save(self, commit: bool = True) -> Preference:
        """Always stores; of two presses at once the second finds what the first has made."""
        said = self.cleaned_data
        chosen: dict[str, Any] = {
            channel: {kind.value: said[f"{channel}_{kind.value}"] for kind in Kind}
            for channel in CHANNELS
        }
        chosen |= {name: said[name] for name in self.Meta.fields if name in said}
        preference, _ = Preference.objects.update_or_create(
            user=self.instance.user, organization=self.instance.organization, defaults=chosen
        )
        return preference


class WebhookForm(forms.ModelForm[Webhook]):
    """Where news of an organization goes, and which."""

    kinds = forms.MultipleChoiceField(
        label="What is sent",
        choices=Kind.choices,
        initial=Kind.values,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    class Meta:
        model = Webhook
        fields = ["organization", "url", "kinds", "is_active"]

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        try:
            addresses.check(url)
        except addresses.NotAllowed as error:
            raise forms.ValidationError(str(error)) from error
        return url
