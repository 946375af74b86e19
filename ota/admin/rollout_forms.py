"""What may be changed about a rollout while it goes on: a form for each button of its page."""

import datetime as dt
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from ota.forms import MomentField, policy_field
from ota.models import Rollout
from ota.rollouts import InvalidPolicy
from ota.rollouts.options import refuse_times


class ChangeForm(forms.Form):
    """Some of a rollout's choices while it runs; it shows the present ones until others are sent.

    What the page showed is sent along: others may have changed it since.
    """

    def __init__(self, rollout: Rollout, data: QueryDict | None = None) -> None:
        super().__init__(data, auto_id=f"id_{type(self).__name__.lower()}_%s")
        self.rollout = rollout
        self.initial = {name: getattr(rollout, name) for name in self.fields}
        for field in self.fields.values():
            field.show_hidden_initial = True

    @property
    def changes(self) -> dict[str, Any]:
        """What was sent and differs from what the page showed; all that was sent where it does not say that."""
        return {name: self.cleaned_data[name] for name in self.fields if self._is_changed(name)}

    def _is_changed(self, name: str) -> bool:
        is_told = self[name].html_initial_name in self.data
        return name in self.changed_data if is_told else name in self.data

    def urlencoded(self) -> str:
        """What was sent, as an address carries it."""
        names = [*self.fields, *(self[name].html_initial_name for name in self.fields)]
        sent = [(name, self.data[name]) for name in names if name in self.data]
        return urlencode([*sent, ("form", type(self).__name__)])


class NameForm(ChangeForm):
    name = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget)


class DeadlineForm(ChangeForm):
    """The start too, as long as it can be moved."""

    starts_at = MomentField("Start", "Empty: at once.")
    deadline_at = MomentField("Deadline", "What was not sent by then is canceled. Empty: never.")

    def __init__(self, rollout: Rollout, data: QueryDict | None = None) -> None:
        super().__init__(rollout, data)
        if not rollout.wave_set.filter(number=1, opened_at=None).exists():
            del self.fields["starts_at"]

    def clean_deadline_at(self) -> dt.datetime | None:
        is_moved = "starts_at" in self.fields and self._is_changed("starts_at")
        start = self.cleaned_data.get("starts_at") if is_moved else self.rollout.starts_at
        deadline: dt.datetime | None = self.cleaned_data["deadline_at"]
        try:
            refuse_times(start, deadline, timezone.now())
        except InvalidPolicy as error:
            raise ValidationError(str(error)) from error
        return deadline


class GatesForm(ChangeForm):
    gate_first = policy_field("gate_first")
    gate = policy_field("gate")
    soak_minutes = policy_field("soak_minutes")
    asks_between_waves = policy_field("asks_between_waves")


class LimitsForm(ChangeForm):
    limit_in_flight = policy_field("limit_in_flight")
    limit_per_site = policy_field("limit_per_site")
    jitter_seconds = policy_field("jitter_seconds")
    windows = policy_field("windows")
    expected_minutes = policy_field("expected_minutes")
    max_failed = policy_field("max_failed")
    max_failed_percent = policy_field("max_failed_percent")
    failed_after = policy_field("failed_after")

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        if not self.errors:  # the hours have to be long enough
            Rollout(windows=said["windows"], expected_minutes=said["expected_minutes"]).clean()
        return said


FORMS: tuple[type[ChangeForm], ...] = (DeadlineForm, LimitsForm, GatesForm, NameForm)
