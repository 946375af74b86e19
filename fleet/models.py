"""Organizations, sites, device models and devices."""

import datetime as dt
import secrets
import zoneinfo
from collections.abc import Iterable
from typing import Self

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from database import reading
from fleet.names import NameField

# Without letters and digits that look alike: people type the code into a remote controller.
_CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def new_binding_code() -> str:
    """Ten characters, 50 bits."""
    return "".join(secrets.choice(_CODE_ALPHABET) for _ in range(10))


def validate_time_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"{name!r} is no time zone; expected a name such as Europe/Zurich")


class Organization(models.Model):
    """Who owns docks; what a dock is bound to (DJI: workspace)."""

    identifier = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(r"^[A-Za-z0-9_.-]+\Z", "Use letters, digits, dot, dash and underscore.")
        ],
        help_text="What the operator types into DJI Pilot 2 as organization id.",
    )
    name = NameField(max_length=200)
    binding_code = models.CharField(
        max_length=64,
        default=new_binding_code,
        help_text="What the operator types into DJI Pilot 2 as binding code.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Site(models.Model):
    """A place where docks stand, with its time zone."""

    organization = models.ForeignKey(Organization, models.CASCADE, related_name="sites")
    name = NameField(max_length=200)
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="site_name_in_organization"
            )
        ]

    def __str__(self) -> str:
        return self.name


class DeviceModelQuerySet(models.QuerySet["DeviceModel"]):
    def ids_by_key(self, keys: Iterable[str]) -> dict[str, int]:
        """Primary keys of the models, made where they are unknown: two queries at most."""
        wanted = set(keys)
        found = dict(self.filter(key__in=wanted).values_list("key", "pk"))
        if missing := wanted - found.keys():
            unknown = [
                DeviceModel(key=key, name=key, kind=DeviceModel.kind_of(key))
                for key in sorted(missing)
            ]
            self.bulk_create(unknown, ignore_conflicts=True)
            found |= dict(self.filter(key__in=missing).values_list("key", "pk"))
        return found


class DeviceModel(models.Model):
    """A product type, ``domain-type-sub_type``; a package fits some of them."""

    class Kind(models.TextChoices):
        AIRCRAFT = "aircraft", "Aircraft"
        PAYLOAD = "payload", "Payload"
        RC = "rc", "Remote controller"
        DOCK = "dock", "Dock"
        UNKNOWN = "unknown", "Unknown"

    key = models.CharField(
        max_length=40,
        unique=True,
        validators=[
            RegexValidator(r"^\d+-\d+-\d+\Z", "Expected domain-type-sub_type, such as 3-2-0.")
        ],
        help_text="domain-type-sub_type, such as 3-2-0",
    )
    name = NameField(max_length=100)
    kind = models.CharField(max_length=10, choices=Kind)
    compatible_with = models.ManyToManyField("self", blank=True)

    objects = DeviceModelQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def kind_of(cls, key: str) -> str:
        """The kind by the key's domain: 0 aircraft, 1 payload, 2 remote controller, 3 dock."""
        kinds = {
            "0": cls.Kind.AIRCRAFT,
            "1": cls.Kind.PAYLOAD,
            "2": cls.Kind.RC,
            "3": cls.Kind.DOCK,
        }
        return kinds.get(key.partition("-")[0], cls.Kind.UNKNOWN)


class DeviceQuerySet(models.QuerySet["Device"]):
    def docks(self) -> Self:
        return self.filter(model__kind=DeviceModel.Kind.DOCK)

    def wake(self, now: dt.datetime) -> None:
        """Has what waits for these devices looked at anew: something about them was changed here."""
        self.update(changed_at=now)

    def named(self, text: str) -> Self:
        """Those whose serial number or callsign has each of the words in it.

        A whole serial number names its device alone, which is found without reading all.
        """
        one = self.filter(sn=text.strip())
        if one.exists():
            return one
        found = self
        for word in text.split():
            has_word = models.Q(sn__icontains=word) | models.Q(callsign__icontains=word)
            found = found.filter(has_word)
        return found

    def with_aircraft(self) -> Self:
        """These devices and the aircraft behind those that are docks."""
        chosen = self.values("pk")
        both = models.Q(pk__in=chosen) | models.Q(gateway__in=chosen)
        return self.model.objects.filter(both)  # type: ignore[return-value]


class Device(reading.QuickModel):
    """One dock or aircraft, known by its serial number.

    What a device reports is kept with two times where order or freshness decide: ``…_reported_at``
    by its own clock, for the order, and ``…_seen_at`` by ours. Empty means never reported.
    """

    class Presence(models.TextChoices):
        ONLINE = "online", "Online"
        OFFLINE = "offline", "Offline"
        OFF = "off", "Off"  # an aircraft that its dock, itself online, reports absent

    sn = models.CharField("serial number", max_length=64, unique=True)
    callsign = NameField(max_length=100, blank=True)
    model = models.ForeignKey(
        DeviceModel, models.PROTECT, null=True, blank=True, related_name="devices"
    )
    organization = models.ForeignKey(
        Organization, models.PROTECT, null=True, blank=True, related_name="devices"
    )
    site = models.ForeignKey(Site, models.SET_NULL, null=True, blank=True, related_name="devices")
    gateway = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="aircraft", verbose_name="dock"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # Empty if it is in an organization only because another device brought it (``is_bound``).
    bound_at = models.DateTimeField(null=True, blank=True)
    failed_binds = models.PositiveSmallIntegerField(default=0)
    binding_blocked_until = models.DateTimeField(null=True, blank=True)

    presence = models.CharField(max_length=10, choices=Presence, default=Presence.OFFLINE)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    online_since = models.DateTimeField(null=True, blank=True)
    topology_at = models.DateTimeField(null=True, blank=True)
    topology_seen_at = models.DateTimeField(null=True, blank=True)
    # Not if the broker may have kept it while no bridge listened.
    topology_is_live = models.BooleanField(default=False)
    thing_version = models.CharField(max_length=64, blank=True)

    firmware_version = models.CharField(max_length=64, blank=True)
    # The version as a number that sorts; 0 for a report that is no version.
    firmware_number = models.BigIntegerField(null=True, blank=True)
    firmware_reported_at = models.DateTimeField(null=True, blank=True)
    firmware_seen_at = models.DateTimeField(null=True, blank=True)
    compatible_status = models.SmallIntegerField(null=True, blank=True)
    compatible_reported_at = models.DateTimeField(null=True, blank=True)
    compatible_seen_at = models.DateTimeField(null=True, blank=True)
    firmware_upgrade_status = models.SmallIntegerField(null=True, blank=True)
    upgrading_reported_at = models.DateTimeField(null=True, blank=True)
    upgrading_seen_at = models.DateTimeField(null=True, blank=True)

    mode_code = models.IntegerField(null=True, blank=True)
    flighttask_step_code = models.IntegerField(null=True, blank=True)
    drone_in_dock = models.IntegerField(null=True, blank=True)
    emergency_stop_state = models.IntegerField(null=True, blank=True)
    link_workmode = models.IntegerField(null=True, blank=True)
    # A dock reports the battery of the aircraft in it, an aircraft its own. A number that is no
    # percentage means that it cannot be read.
    battery_percent = models.IntegerField(null=True, blank=True)
    # The emptier of its batteries, as told for their maintenance while the aircraft is off.
    maintenance_percent = models.IntegerField(null=True, blank=True)
    sub_device_sn = models.CharField(max_length=64, blank=True)
    sub_device_paired = models.IntegerField(null=True, blank=True)
    sub_device_online = models.IntegerField(null=True, blank=True)
    storage_total = models.BigIntegerField("storage, KB", null=True, blank=True)
    storage_used = models.BigIntegerField("storage used, KB", null=True, blank=True)

    # What a device has to say anew after each start before a command may go to it.
    UNKNOWN_FACTS = {
        "mode_code": None,
        "flighttask_step_code": None,
        "drone_in_dock": None,
        "emergency_stop_state": None,
        "link_workmode": None,
        "battery_percent": None,
        "maintenance_percent": None,
    }

    # When anything changed that may clear or raise a blocker, of this device or of its aircraft.
    changed_at = models.DateTimeField(null=True, blank=True)

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ["sn"]
        indexes = [
            # With the order of the list: one page of all that need an upgrade is in the index alone.
            models.Index(
                fields=["model", "firmware_number", "compatible_status", "sn"], name="device_need"
            ),
            # None has what devices say each few seconds: PostgreSQL would write to all indexes each
            # time. There is one more on PostgreSQL, for searches (migration 0003).
            models.Index(fields=["presence"], name="device_presence"),
        ]
        permissions = [("adopt_device", "Can adopt unclaimed devices into an organization")]

    def __str__(self) -> str:
        return f"{self.callsign} ({self.sn})" if self.callsign else self.sn

    @staticmethod
    def together(devices: Iterable["Device"]) -> list["Device"]:
        """All of them with model, organization, site and dock, and the docks with theirs; five queries."""
        found = {device.pk: device for device in devices}
        behind = {device.gateway_id for device in found.values() if device.gateway_id}
        missing = Device.objects.filter(pk__among=behind - found.keys())
        known = found | {dock.pk: dock for dock in missing}
        models = DeviceModel.objects.in_bulk({d.model_id for d in known.values() if d.model_id})
        owners = {d.organization_id for d in known.values() if d.organization_id}
        organizations = Organization.objects.in_bulk(owners)
        sites = Site.objects.in_bulk({d.site_id for d in known.values() if d.site_id})
        reading.attach(
            known.values(), model=models, organization=organizations, site=sites, gateway=known
        )
        return list(found.values())

    @property
    def battery(self) -> int | None:
        """The lowest percentage that it tells of a battery; None where it tells none that can be read."""
        told = (self.battery_percent, self.maintenance_percent)
        readable = [percent for percent in told if percent is not None and 0 <= percent <= 100]
        is_unreadable = self.battery_percent is not None and self.battery_percent not in readable
        return None if is_unreadable else min(readable, default=None)

    @property
    def is_online(self) -> bool:
        return self.presence == self.Presence.ONLINE

    @property
    def kind(self) -> str:
        model = self.model
        return model.kind if model else DeviceModel.Kind.UNKNOWN

    @property
    def is_dock(self) -> bool:
        return self.kind == DeviceModel.Kind.DOCK

    @property
    def is_aircraft(self) -> bool:
        return self.kind == DeviceModel.Kind.AIRCRAFT

    @property
    def is_bound(self) -> bool:
        """Whether a dock is in its organization by itself; only then it is upgraded."""
        return self.organization_id is not None and self.is_bound_as(self.kind)

    def is_bound_as(self, kind: str) -> bool:
        """Whether a device of this kind was bound with its own code, or was put there by a person.

        An aircraft comes with its dock. A dock that another one calls its aircraft does not.
        """
        return self.bound_at is not None and kind != DeviceModel.Kind.AIRCRAFT

    def settled_at(self, settle_time: float) -> dt.datetime | None:
        """From when on commands are wise after the device came online; ``settle_time`` in s."""
        return self.online_since and self.online_since + dt.timedelta(seconds=settle_time)
