"""The device models that we know; shipped as ``device_models.json``.

Keys and names: DJI Cloud API, product support pages v1.11.3 and newer third-party transcriptions.
"""

import json
from pathlib import Path
from typing import Any

from django.db import transaction

from fleet.models import DeviceModel

_FILE = Path(__file__).with_name("device_models.json")


def load_after_migration(**_: Any) -> None:
    """Adds what a new version knows; a name that somebody changed stays."""
    load()


def load() -> None:
    entries = json.loads(_FILE.read_text())
    with transaction.atomic():
        found = {entry["key"]: _stored(entry) for entry in entries}
        for entry in entries:
            partners = [found[key] for key in entry["compatible_with"] if key in found]
            found[entry["key"]].compatible_with.add(*partners)


def _stored(entry: dict[str, Any]) -> DeviceModel:
    model, _ = DeviceModel.objects.get_or_create(
        key=entry["key"], defaults={"name": entry["name"], "kind": entry["kind"]}
    )
    if model.name == model.key:  # met on the wire before we knew its name
        DeviceModel.objects.filter(pk=model.pk).update(name=entry["name"], kind=entry["kind"])
    return model
