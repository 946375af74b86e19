"""What people call things: one line without control characters, so that tables, logs and subjects stay whole."""

import unicodedata
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

# Control characters, and the ends of lines and paragraphs.
_BREAKS = {"Cc", "Zl", "Zp"}


def validate_name(text: str) -> None:
    if text != in_one_line(text):
        raise ValidationError("Write it in one line, without control characters.")


def in_one_line(text: str) -> str:
    """The text with a blank for each control character and line break: what devices say is not refused."""
    return "".join(" " if unicodedata.category(char) in _BREAKS else char for char in text)


class NameField(models.CharField[str, str]):
    """A name; to the database it is any text."""

    default_validators = [validate_name]

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.CharField", args, kwargs
