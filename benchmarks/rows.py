"""Many docks in the database, quickly."""

import datetime as dt
from typing import Any

from django.utils import timezone

from benchmarks import ground  # noqa: F401 (sets Django up)
from fleet.models import Device
from tests.make import (
    OLD,
    make_aircraft,
    make_dock,
    make_listening,
    make_organization,
    make_package,
)


def make_fleet(docks: int) -> None:
    """So many idle docks with an aircraft each, a package for all, and a bridge that listens.

    They are heard for a day, although nobody speaks for them.
    """
    make_listening()
    organization = make_organization()
    heard: dict[str, Any] = {"last_seen_at": timezone.now() + dt.timedelta(days=1)}
    dock = make_dock(organization=organization, **heard)
    aircraft = make_aircraft(dock, **heard)
    Device.objects.bulk_create(_like(dock, f"D{number:06d}") for number in range(docks - 1))
    more = Device.objects.filter(sn__startswith="D")
    Device.objects.bulk_create(_like(aircraft, f"A{found.sn}", gateway=found) for found in more)
    make_package()


def _like(device: Device, sn: str, **fields: object) -> Device:
    """A copy that is not saved yet."""
    values = {f.attname: getattr(device, f.attname) for f in Device._meta.concrete_fields}
    values |= {"id": None, "sn": sn, "firmware_version": OLD}
    values.pop("gateway_id")
    return Device(**values | fields)
