"""The console's forms of firmware: the choices of a rollout, and a package to add."""

from collections import defaultdict
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.http import QueryDict
from unfold.widgets import (
    UnfoldAdminDateWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from fleet.models import DeviceModel
from ota import packages
from ota.models import FirmwarePackage, Upload
from ota.models.packages import validate_version
from ota.packages import PackageRefused
from ota.packages.facts import Given
from ota.rollouts import Options

# A change of these changes who is upgraded and to what.
DECISIVE = ("to", "with_aircraft", "allow_downgrade")


class RolloutForm(forms.Form):
    """What an operator chooses for a rollout; always bound, to the choices so far."""

    to = forms.ChoiceField(label="Target version", required=False, widget=UnfoldAdminSelectWidget)
    limit_in_flight = forms.IntegerField(
        label="Docks at a time",
        min_value=1,
        max_value=100_000,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="How many docks may be upgrading at once; the others wait their turn.",
    )
    name = forms.CharField(
        label="Name of the rollout",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Empty: named by date and time.",
    )
    with_aircraft = forms.BooleanField(
        label="Also the aircraft of the chosen docks", required=False, widget=UnfoldBooleanWidget
    )
    allow_downgrade = forms.BooleanField(
        label="Allow older versions than the devices have",
        required=False,
        widget=UnfoldBooleanWidget,
        help_text="Without this, a device that has a newer version is left out.",
    )

    def __init__(self, choices: QueryDict) -> None:
        data = choices.copy()
        data.setdefault("limit_in_flight", str(settings.LIMIT_IN_FLIGHT))
        super().__init__(data)
        target = self.fields["to"]
        if isinstance(target, forms.ChoiceField):
            target.choices = [("", "The newest of each model"), *_versions()]
        for name in DECISIVE:
            self.fields[name].widget.attrs["data-decisive"] = ""

    def options(self) -> Options:
        return Options(**self.cleaned_data)

    def urlencoded(self) -> str:
        """The choices as an address carries them."""
        return urlencode([(name, self.data[name]) for name in self.fields if self.data.get(name)])

    def decision(self) -> str:
        """The choices that decide who is upgraded and to what, as one text to compare."""
        return urlencode([(name, self.cleaned_data[name]) for name in DECISIVE])


def _versions() -> list[tuple[str, str]]:
    """The versions of the library, newest first, with the models that they are for."""
    models: defaultdict[str, set[str]] = defaultdict(set)
    available = FirmwarePackage.objects.available().order_by("-version_number", "-pk")
    for package in available.prefetch_related("models"):
        models[package.version] |= {model.name for model in package.models.all()}
    return [(version, f"{version} · {_few(sorted(names))}") for version, names in models.items()]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


class PackageForm(forms.Form):
    """What is said about a package whose file is uploaded; what the zip tells itself may stay empty."""

    upload = forms.UUIDField(
        widget=forms.HiddenInput, error_messages={"required": "Choose a file first."}
    )
    version = forms.CharField(
        required=False,
        validators=[validate_version],
        widget=UnfoldAdminTextInputWidget,
        help_text="Only where the zip does not tell it, such as 10.01.3205.",
    )
    models = forms.ModelMultipleChoiceField(
        DeviceModel.objects.all(),
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Only where the zip does not tell them.",
    )
    released_on = forms.DateField(
        label="Release date",
        required=False,
        widget=UnfoldAdminDateWidget,
        help_text="Only where the zip does not tell it.",
    )
    confirmed = forms.BooleanField(
        label="This release date is right", required=False, widget=UnfoldBooleanWidget
    )
    minimum_version = forms.CharField(
        label="Needs first",
        required=False,
        validators=[validate_version],
        widget=UnfoldAdminTextInputWidget,
        help_text="Devices with an older version than this have to get it first. Empty: any may go.",
    )
    notes = forms.CharField(
        label="Release notes",
        required=False,
        widget=UnfoldAdminTextareaWidget({"rows": 6}),
        help_text="Markdown.",
    )
    draft = forms.BooleanField(
        label="Keep it as a draft",
        required=False,
        widget=UnfoldBooleanWidget,
        help_text="A draft is not offered for upgrades until it is made available.",
    )

    def details(self) -> list[forms.BoundField]:
        """The fields to show; the confirmation only where there is something to confirm."""
        hidden = {"upload"} if self._asks_to_confirm() else {"upload", "confirmed"}
        return [field for field in self if field.name not in hidden]

    def names(self, upload: Upload) -> bool:
        """Whether this upload is the one that is chosen."""
        return str(self["upload"].value()) == str(upload.pk)

    def given(self) -> Given:
        told = {name: self.cleaned_data[name] for name in Given._fields}
        return Given(**told | {"models": [model.key for model in told["models"]]})

    def refuse(self, refusal: PackageRefused) -> None:
        """Puts a refusal beside the field that it is about."""
        field = "upload" if refusal.field == "file" else refusal.field
        self.add_error(field if field in self.fields else None, str(refusal))

    def _asks_to_confirm(self) -> bool:
        if not self.is_bound:
            return False
        told = self.cleaned_data if hasattr(self, "cleaned_data") else {}
        is_contradicted = bool(self.data.get("released_on")) and "released_on" in self.errors
        return bool(told.get("confirmed")) or is_contradicted


class PackageDetailsForm(forms.ModelForm[FirmwarePackage]):
    """What people say about a package that is in the library."""

    class Meta:
        model = FirmwarePackage
        fields = ["models", "released_on", "minimum_version", "notes"]

    def clean_notes(self) -> str:
        """Browsers end lines in their own way, which is no change."""
        return str(self.cleaned_data["notes"]).replace("\r\n", "\n")

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        try:
            packages.refuse_change(
                self.instance, {n: said[n] for n in self.changed_data if n in said}
            )
        except PackageRefused as refusal:
            self.add_error(refusal.field, str(refusal))
        return said
