"""Forms of the console that an address may fill in, such as ``?organization=1``."""

from typing import Any, TypeVar

from django.db.models import Model
from django.http import HttpRequest

from console.keys import is_key
from console.lists import ListAdmin

M = TypeVar("M", bound=Model)


class PrefilledAdmin(ListAdmin[M]):
    """Takes no key that no row can have: choices that look up their rows would raise."""

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, str | list[str]]:
        told = super().get_changeform_initial_data(request)
        odd = {name for name in self.autocomplete_fields if not _is_right(told.get(name, []))}
        return {name: value for name, value in told.items() if name not in odd}


def _is_right(value: Any) -> bool:
    keys = [value] if isinstance(value, str) else value
    return all(is_key(key) for key in keys)
