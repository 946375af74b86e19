"""The console's forms of firmware: the choices of a rollout, and a package to add."""

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.http import QueryDict
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminDateWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from fleet import versions
from fleet.models import DeviceModel
from ota import packages
from ota.models import Criterion, FirmwarePackage, Policy, Rollout, Upload
from ota.models.packages import MOST_NOTES, validate_version
from ota.packages import PackageRefused
from ota.packages.facts import Given
from ota.rollouts import FIELDS, LABELS, InvalidPolicy, Options, options_of

# A change of these changes who is upgraded and to what.
DECISIVE = ("to", "with_aircraft", "allow_downgrade")


# Told by a page that has shown the policy: what is missing in its answer was emptied by somebody.
POLICY_SHOWN = "policy_shown"

# The target that is no version: each model gets what it got in the rollout that is cloned.
AS_IN_ORIGINAL = "original"


class Group(NamedTuple):
    """Choices that stand together."""

    title: str
    fields: list[forms.BoundField]


def policy_field(name: str) -> forms.Field:
    """The field of a form for a field of ``Policy``, with the model's own rules."""
    field = Policy._meta.get_field(name)
    if not isinstance(field, models.Field):
        raise TypeError(f"{name} is no field")
    if isinstance(field, models.BooleanField):
        found = field.formfield(widget=UnfoldBooleanWidget)
    elif isinstance(field, models.IntegerField):
        found = field.formfield(
            widget=UnfoldAdminIntegerFieldWidget, validators=field.validators, localize=False
        )
    else:
        found = field.formfield(widget=UnfoldAdminTextInputWidget, validators=field.validators)
    if not isinstance(found, forms.Field):
        raise TypeError(f"{name} has no field of a form")
    found.label = LABELS.get(name, found.label)
    return found


class MomentField(forms.DateTimeField):
    """A time on the clock of this installation, whose zone is told."""

    def __init__(self, label: str, help_text: str) -> None:
        widget = UnfoldAdminTextInputWidget({"type": "datetime-local"})
        super().__init__(label=label, required=False, widget=widget)
        self.explanation = help_text

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dt.datetime):
            return f"{timezone.localtime(value):%Y-%m-%dT%H:%M}"
        return value

    def to_python(self, value: Any) -> dt.datetime | None:
        found = super().to_python(value)
        if found and not 1970 < found.year < 9999:
            raise ValidationError("This year is out of the question.", code="invalid")
        return found

    def get_bound_field(self, form: forms.BaseForm, field_name: str) -> forms.BoundField:
        self.help_text = f"{self.explanation} Time zone: {timezone.get_current_timezone_name()}."
        return super().get_bound_field(form, field_name)


class RolloutForm(forms.Form):
    """What an operator chooses for a rollout; always bound, to the choices so far.

    ``models`` are the keys of the devices' models, whose versions are offered. ``preferred`` is the
    policy where nothing else was chosen yet, ``criteria`` what the devices were chosen by. With an ``original``, the rollout that is cloned, both are as there.
    """

    to = forms.ChoiceField(label="Target version", required=False, widget=UnfoldAdminSelectWidget)
    limit_in_flight = policy_field("limit_in_flight")
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
    waves = policy_field("waves")
    pilot = forms.CharField(
        required=False,
        max_length=2000,
        widget=UnfoldAdminTextareaWidget({"rows": 3}),
        help_text="Serial numbers of docks or aircraft that go first, in a wave of their own; one a "
        "line, or with commas.",
    )
    gate_first = policy_field("gate_first")
    gate = policy_field("gate")
    soak_minutes = policy_field("soak_minutes")
    asks_between_waves = policy_field("asks_between_waves")
    keeps_open = policy_field("keeps_open")
    starts_at = MomentField("Start", "Empty: at once.")
    deadline_at = MomentField("Deadline", "What was not sent by then is canceled. Empty: never.")
    windows = policy_field("windows")
    expected_minutes = policy_field("expected_minutes")
    max_failed = policy_field("max_failed")
    max_failed_percent = policy_field("max_failed_percent")
    failed_after = policy_field("failed_after")
    limit_per_site = policy_field("limit_per_site")
    jitter_seconds = policy_field("jitter_seconds")

    FIRST = ("to", "limit_in_flight", "name", "with_aircraft", "allow_downgrade")
    GROUPS: Mapping[str, tuple[str, ...]] = {
        "Waves": ("waves", "pilot", "gate_first", "gate", "soak_minutes", "asks_between_waves"),
        "When": ("starts_at", "deadline_at", "windows", "expected_minutes", "keeps_open"),
        "When it stops by itself": ("max_failed", "max_failed_percent", "failed_after"),
        "Limits": ("limit_per_site", "jitter_seconds"),
    }

    def __init__(
        self,
        choices: QueryDict,
        models: Collection[int | None],
        preferred: Mapping[str, Any],
        criteria: Sequence[Criterion] = (),
        original: Rollout | None = None,
    ) -> None:
        self.original, self.like = original, _like(original) if original else None
        data = choices.copy()
        if POLICY_SHOWN not in data:
            for name, value in {**preferred, **self._as_in_original()}.items():
                data.setdefault(name, _written(value))
        super().__init__(data)
        self.preferred = preferred
        self.criteria = self.like.criteria if self.like else criteria
        target = self.fields["to"]
        if isinstance(target, forms.ChoiceField):
            target.choices = [("", "The newest of each model"), *self._targets(models)]
        for name in DECISIVE:
            self.fields[name].widget.attrs["data-decisive"] = ""

    def _as_in_original(self) -> dict[str, Any]:
        """The choices of the rollout that is cloned, where there is one."""
        if self.like is None:
            return {}
        to = AS_IN_ORIGINAL if self.like.to_by_model else self.like.to
        also = {"name": self.like.name, "allow_downgrade": self.like.allow_downgrade}
        return {**self.like.policy, **also, "to": to}

    def _targets(self, models: Collection[int | None]) -> list[tuple[str, str]]:
        """The versions to choose from; those of the original also if they are not offered."""
        found = _versions(models)
        if self.like and self.like.to_by_model:
            text = f"As in {self.original}: {_by_model(self.like.to_by_model)}"
            return [(AS_IN_ORIGINAL, text), *found]
        if self.like and self.like.to and self.like.to not in dict(found):
            return [(self.like.to, f"{self.like.to} · not offered for these devices"), *found]
        return found

    def clean_pilot(self) -> tuple[str, ...]:
        """Each serial number once, in the order in which they were written."""
        found = re.split(r"[\s,;]+", self.cleaned_data["pilot"])
        return tuple(dict.fromkeys(sn for sn in found if sn))

    def options(self) -> Options:
        chosen = dict(self.cleaned_data)
        policy = {name: chosen.pop(name) for name in FIELDS}
        if self.like and chosen["to"] == AS_IN_ORIGINAL:
            chosen |= {"to": "", "to_by_model": self.like.to_by_model}
        return Options(**chosen, policy=policy, criteria=self.criteria, rest_of=self.original)

    def refuse(self, error: InvalidPolicy) -> None:
        """Puts a refusal beside the choice that it is about."""
        self.add_error(error.field if error.field in self.fields else None, str(error))

    def first(self) -> list[forms.BoundField]:
        """The choices that everybody makes."""
        return [self[name] for name in self.FIRST]

    def groups(self) -> list[Group]:
        """The others: how it goes."""
        return [Group(title, [self[n] for n in names]) for title, names in self.GROUPS.items()]

    def is_unusual(self) -> bool:
        """Whether something of how it goes was chosen, or is wrong."""
        usual = {name: _written(value) for name, value in self.preferred.items()}
        names = [name for names in self.GROUPS.values() for name in names]
        return any(
            name in self.errors or (self.data.get(name) or "") != usual.get(name, "")
            for name in names
        )

    def urlencoded(self) -> str:
        """The choices as an address carries them."""
        chosen = [(name, self.data[name]) for name in self.fields if self.data.get(name)]
        return urlencode([*chosen, (POLICY_SHOWN, "1")])

    def decision(self) -> str:
        """The choices that decide who is upgraded and to what, as one text to compare."""
        return urlencode([(name, self.cleaned_data[name]) for name in DECISIVE])


def _written(value: Any) -> str:
    """A value as a browser sends it; what is empty or not ticked is not sent."""
    if isinstance(value, bool):
        return "on" if value else ""
    return "" if value is None else str(value)


def _versions(models: Collection[int | None]) -> list[tuple[str, str]]:
    """The versions that the library has for some of these models, newest first, with those models."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    available = FirmwarePackage.objects.available().order_by("-version_number", "-pk")
    for package in available.prefetch_related("models"):
        if names := {model.name for model in package.models.all() if model.pk in models}:
            found[package.version] |= names
    return [(version, f"{version} · {_few(sorted(names))}") for version, names in found.items()]


def _by_model(numbers: Mapping[int, int]) -> str:
    """Several versions, newest first, with the models that get them."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for pk, model in DeviceModel.objects.in_bulk(numbers).items():
        names[numbers[pk]].append(model.name)
    ordered = sorted(names.items(), reverse=True)
    return "; ".join(f"{versions.text(number)} · {_few(sorted(of))}" for number, of in ordered)


def _like(original: Rollout) -> Options:
    """Whether devices may go back is asked again below, so that it may stand there as it was."""
    return options_of(original, allow_downgrade=original.allow_downgrade)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
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
        help_texts = {"notes": f"Markdown, at most {MOST_NOTES:,} characters."}

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
