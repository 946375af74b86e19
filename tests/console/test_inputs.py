"""Fields are written as Django's templates write them."""

import itertools
from typing import Any

import pytest
from django import forms
from django.forms.renderers import DjangoTemplates
from django.test.signals import template_rendered
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from unfold.widgets import (
    UnfoldAdminSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from console.inputs import Renderer

WIDGETS = [
    *(forms.CheckboxInput, forms.EmailInput, forms.HiddenInput, forms.NumberInput),
    *(forms.PasswordInput, forms.SearchInput, forms.TelInput, forms.TextInput, forms.URLInput),
    *(UnfoldBooleanWidget, UnfoldAdminTextInputWidget),
    # Of more than one tag: left to the templates.
    *(forms.Textarea, forms.Select, forms.CheckboxSelectMultiple, forms.ClearableFileInput),
]
VALUES = [None, "", "on", 17, 1.5, True, False, "a \"b\" 'c' <d> & é", lazystr("<late>")]
ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"id": "first", "class": "one two", "required": True, "disabled": False, "maxlength": 5},
    {"title": '"><script>', "data-x": mark_safe("&amp;"), "aria-label": lazystr("<late>")},
    {"placeholder": None, "min": 0},
]


SELECTS = [
    *(forms.Select, forms.SelectMultiple),
    *(UnfoldAdminSelectWidget, UnfoldAdminSelectMultipleWidget),
]
CHOICES: list[Any] = [
    *(
        ("", "---"),
        (None, "None"),
        (17, "Seventeen"),
        (False, 1234.5),
        ('"<a>"', "<b> & é"),
        ("late", lazystr("<i>")),
    ),
    ("Group <c>", [("in", mark_safe("<b>bold</b>")), (mark_safe("&amp;"), "in it")]),
]


@pytest.mark.parametrize("widget", WIDGETS)
def test_a_field_looks_as_django_writes_it(widget: type[forms.Widget]) -> None:
    for value, attributes in itertools.product(VALUES, ATTRIBUTES):
        ours, theirs = (
            widget(attributes).render("na<m>e", value, renderer=renderer)
            for renderer in (Renderer(), DjangoTemplates())
        )

        assert ours == theirs


@pytest.mark.parametrize("widget", SELECTS)
def test_choices_look_as_django_writes_them(widget: type[forms.Select]) -> None:
    for value in ["", 17, ["17", "in"], "nothing"]:
        select = widget()
        select.choices = CHOICES
        ours, theirs = (
            select.render("name", value, renderer=renderer)
            for renderer in (Renderer(), DjangoTemplates())
        )

        assert ours == theirs


def test_no_choice_takes_a_template_of_its_own() -> None:
    rendered: list[Any] = []

    def note(template: Any, **_: Any) -> None:
        rendered.append(template.name)

    template_rendered.connect(note)
    try:
        UnfoldAdminSelectWidget(choices=CHOICES).render("name", "", renderer=Renderer())
    finally:
        template_rendered.disconnect(note)

    assert rendered == ["unfold/widgets/select.html", "django/forms/widgets/attrs.html"]


def test_what_a_field_says_is_not_escaped_again() -> None:
    assert hasattr(forms.TextInput().render("name", "<b>", renderer=Renderer()), "__html__")


def test_forms_use_it() -> None:
    assert isinstance(forms.Form().renderer, Renderer)
