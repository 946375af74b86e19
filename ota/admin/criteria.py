"""By what a list of devices in the console was chosen, as a rollout that stays open keeps it."""

from collections.abc import Callable, Mapping
from typing import Any

from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR
from django.db import models
from django.http import QueryDict

from fleet.models import DeviceModel, Organization, Site
from fleet.selection import Selection
from ota.admin.device_filters import ANY, WANTING
from ota.models import Criterion

# What says nothing about who is meant, or nothing that a rollout would not say anyway.
NEUTRAL = {PAGE_VAR, ORDER_VAR, "_changelist_filters", "all"}


def of(chosen: Selection) -> list[Criterion]:
    """What a device must meet to be on the list, as the one criterion; none where a list cannot stay open."""
    if chosen.query is None:
        return []
    params = {name: value for name, value in QueryDict(chosen.query).items() if value}
    criterion = Criterion()
    for name in params.keys() - NEUTRAL:
        read = _READERS.get(name)
        if read is None or not read(criterion, str(params[name])):
            return []
    return [criterion]


def _need(criterion: Criterion, value: str) -> bool:
    criterion.need = "" if value == ANY else value
    return value == ANY or value in set(WANTING)


def _kind(criterion: Criterion, value: str) -> bool:
    criterion.kind = value
    return value in DeviceModel.Kind.values


def _row(name: str, model: type[models.Model]) -> Callable[[Criterion, str], bool]:
    def read(criterion: Criterion, value: str) -> bool:
        is_key = value.isdecimal() and len(value) < 10
        found: Any = model._default_manager.filter(pk=value).first() if is_key else None
        setattr(criterion, name, found)
        return found is not None

    return read


_READERS: Mapping[str, Callable[[Criterion, str], bool]] = {
    "need": _need,
    "model__kind__exact": _kind,
    "model__id__exact": _row("model", DeviceModel),
    "organization__id__exact": _row("organization", Organization),
    "site__id__exact": _row("site", Site),
    "claimed": lambda criterion, value: value == "yes",
}
