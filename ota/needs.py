"""What a device needs, and what blocks it now: one answer for preview, commands, console and launch.

The table is the Cloud API's: another version wants a regular upgrade, the same version with
``compatible_status`` 1 a consistency upgrade, and regular goes before consistency because it puts
the modules right too. "Up to date" is equality; a lower target is a downgrade and never implied.
"""

import datetime as dt
import enum
import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from django.conf import settings
from django.db.models import Count, Q, QuerySet

from fleet import modes, telemetry
from fleet.models import Device, DeviceModel
from mqtt_bridge.models import BridgeSession, Heard
from ota.models import FirmwarePackage, ForeignUpgrade, UpgradeTarget, UpgradeTask
from ota.states import OPEN, PackageState

LOW_BATTERY = 20  # percent; the device refuses at or below it (312704)
IDLE = 0
IDLE_STEP = 5
AIRCRAFT_IDLE = {0, 14}  # standby; not connected, as when it sleeps in the dock


class Need(enum.StrEnum):
    """What a device needs, compared with the library."""

    REGULAR = "regular"
    CONSISTENCY = "consistency"
    NONE = "none"
    UNKNOWN = "unknown"
    DOWNGRADE = "downgrade"


class Reason(NamedTuple):
    """Why something waits or is left out: a code for scripts, a text for people."""

    code: str
    text: str

    def as_json(self) -> dict[str, str]:
        return self._asdict()


class Answer(NamedTuple):
    """What one device needs, with which package, what blocks it now and what excludes it for good.

    ``gateway`` is the dock that takes its commands, where there is one.
    """

    device: Device
    gateway: Device | None
    need: Need
    package: FirmwarePackage | None
    blockers: list[Reason]
    exclusion: Reason | None

    @property
    def upgrade_type(self) -> UpgradeTarget.Type:
        is_consistency = self.need is Need.CONSISTENCY
        return UpgradeTarget.Type.CONSISTENCY if is_consistency else UpgradeTarget.Type.REGULAR


# The version that is wanted, as a number: one for all, one for each model, or the newest of each.
Target = int | Mapping[int, int] | None


def number_for(model_id: int | None, to: Target) -> int | None:
    """The version for a model; of several, for a model that none is named for, one that no package has."""
    return to.get(model_id or 0, 0) if isinstance(to, Mapping) else to


class Library:
    """The available packages by model, newest first; one query."""

    def __init__(self) -> None:
        self._packages: defaultdict[int, list[FirmwarePackage]] = defaultdict(list)
        fits = FirmwarePackage.models.through.objects.select_related("firmwarepackage")
        available = fits.filter(firmwarepackage__state=PackageState.AVAILABLE)
        for row in available.order_by("-firmwarepackage__version_number", "-firmwarepackage"):
            self._packages[row.devicemodel_id].append(row.firmwarepackage)

    def package(self, model_id: int | None, number: int | None = None) -> FirmwarePackage | None:
        """The newest package of a model, or the one of a version (as a number)."""
        found = self._packages.get(model_id or 0, [])
        return next((p for p in found if number is None or p.version_number == number), None)

    def by_model(self, to: "Target" = None) -> dict[int, FirmwarePackage]:
        """For each model the newest package, or the one of its version, where there is one."""
        found = {model: self.package(model, number_for(model, to)) for model in self._packages}
        return {model: package for model, package in found.items() if package}

    def step(self, model_id: int | None, least: int, below: int) -> FirmwarePackage | None:
        """The oldest package of a model from one version up to, and without, another one."""
        found = self._packages.get(model_id or 0, [])
        return next((p for p in reversed(found) if least <= p.version_number < below), None)

    def versions(self) -> list[str]:
        """All versions, newest first."""
        found = {p.version_number: p.version for ps in self._packages.values() for p in ps}
        return [found[number] for number in sorted(found, reverse=True)]


# So far behind is only a bridge that takes in what waited. Where nobody says anything it hears from
# the broker each ten seconds.
BEHIND = dt.timedelta(seconds=30)

# Up to so many docks are named in a query; for more all that is open is read, which is not much more.
NAMED = 5000


class Situation:
    """What the answers for some docks, or for all, and for what is behind them share; six queries.

    One more while no bridge listens, or not all that share the messages do.
    """

    def __init__(self, now: dt.datetime, docks: Collection[int] | None = None) -> None:
        among = None if docks is None or len(docks) > NAMED else docks
        self.now = now
        self.library = Library()
        self.heard = BridgeSession.objects.heard(now)
        self.away = BridgeSession.objects.away(now).first() if self.heard is None else None
        foreign = ForeignUpgrade.objects.filter(_among("gateway", among), finished_at=None)
        self.foreign = set(foreign.values_list("gateway_id", flat=True))
        opened = UpgradeTask.objects.open().filter(_among("gateway", among)).order_by()
        self.opened = set(opened.values_list("gateway_id", flat=True))
        # What open tasks upgrade: by device the tasks, for an aircraft may have changed its dock.
        self.tasks: defaultdict[int, set[int]] = defaultdict(set)
        targets = UpgradeTarget.objects.filter(task__status__in=OPEN).order_by()
        if among is not None:
            behind = Device.objects.filter(Q(pk__among=among) | Q(gateway__among=among))
            targets = targets.filter(device__in=behind.order_by().values("pk"))
        for device, task in targets.values_list("device_id", "task_id"):
            self.tasks[device].add(task)
        self.in_use: defaultdict[int, list[Device]] = defaultdict(list)
        for aircraft in _aircraft_in_use().filter(_among("gateway", among)):
            self.in_use[aircraft.gateway_id or 0].append(aircraft)


def _among(name: str, docks: Collection[int] | None) -> Q:
    return Q() if docks is None else Q(**{f"{name}__among": docks})


def _aircraft_in_use() -> QuerySet[Device]:
    """Aircraft that are on and either do something or are not in their dock."""
    awake = Device.objects.filter(presence=Device.Presence.ONLINE, gateway__isnull=False)
    is_busy = Q(mode_code__isnull=False) & ~Q(mode_code__in=AIRCRAFT_IDLE)
    return awake.filter(is_busy | Q(gateway__drone_in_dock=0))


def need(
    library: Library,
    model_id: int | None,
    number: int | None,
    compatible: int | None,
    to: int | None = None,
) -> tuple[Need, FirmwarePackage | None]:
    """The decision table for a model, a reported version and ``compatible_status``.

    ``to`` asks for a version instead of the newest; the package is the one to install, if any.
    """
    package = library.package(model_id, to)
    if not number or package is None:
        return Need.UNKNOWN, package
    if package.version_number > number:
        return Need.REGULAR, package
    if package.version_number < number:
        return Need.DOWNGRADE, package
    return (Need.CONSISTENCY if compatible == 1 else Need.NONE), package


def assess(
    devices: QuerySet[Device] | Sequence[Device],
    now: dt.datetime,
    *,
    to: Target = None,
    allow_downgrade: bool = False,
) -> list[Answer]:
    """The answer for each device; nine queries, whatever their number."""
    if isinstance(devices, QuerySet):
        devices = Device.together(devices)
    situation = Situation(now, docks_of(devices))
    return [
        answer(device, situation, number_for(device.model_id, to), allow_downgrade)
        for device in devices
    ]


def answer(device: Device, situation: Situation, to: int | None, allow_downgrade: bool) -> Answer:
    """The answer for a device that was read as ``assess`` does it; ``to`` is a version as a number."""
    found, package = need(
        situation.library, device.model_id, device.firmware_number, device.compatible_status, to
    )
    gateway = gateway_of(device)
    exclusion = _never(device, gateway) or _not_needed(device, found, package, allow_downgrade)
    is_open = (gateway and gateway.pk in situation.opened) or situation.tasks.get(device.pk)
    if exclusion is None and is_open:
        exclusion = Reason("open_task", "another upgrade of this dock is open")
    packages = [package] if package else []
    blocked = (
        blockers(situation, gateway, device if device != gateway else None, packages)
        if gateway
        else []
    )
    if first := needs_first(situation.library, device, package):
        blocked.insert(0, first)
    return Answer(device, gateway, found, package, blocked, exclusion or first)


def needs_first(library: Library, device: Device, package: FirmwarePackage | None) -> Reason | None:
    """Which version a device has to get before this package, and where it is to be had."""
    number = device.firmware_number
    least = package.minimum_number if package else None
    if package is None or not number or least is None or number >= least:
        return None
    step = library.step(device.model_id, least, package.version_number)
    if step is None:
        what = "add its package to the library"
    elif step.version_number == least:
        what = "choose it as the target version"
    else:
        what = f"choose {step.version}, which will do too, as the target version"
    return Reason("needs_first", f"needs {package.minimum_version} first: {what}")


def gateway_of(device: Device) -> Device | None:
    """The dock that takes commands for a device: itself, or the one that it belongs to."""
    if device.is_dock:
        return device
    dock = device.gateway
    return dock if dock and dock.is_dock else None


def docks_of(devices: Iterable[Device]) -> set[int]:
    """The keys of the docks that take commands for the devices."""
    return {dock.pk for device in devices if (dock := gateway_of(device))}


def _never(device: Device, gateway: Device | None) -> Reason | None:
    """What no upgrade would change by waiting."""
    kind = device.kind
    if kind == DeviceModel.Kind.UNKNOWN:
        return Reason("unknown_model", "its model is not known yet")
    if kind == DeviceModel.Kind.RC or gateway is None:
        return Reason(
            "not_behind_dock", "only docks, and aircraft behind a dock, are upgraded from here"
        )
    if device.organization_id is None or gateway.organization_id is None:
        return Reason("unclaimed", "it is not bound to an organization")
    if not gateway.is_bound:
        return Reason(
            "unclaimed", "its dock is in an organization only because another dock said so"
        )
    if gateway.organization_id != device.organization_id:
        return Reason("other_organization", "its dock belongs to another organization")
    return None


def _not_needed(
    device: Device, found: Need, package: FirmwarePackage | None, allow_downgrade: bool
) -> Reason | None:
    if package is None:
        return Reason("no_package", f"no available package fits {device.model}")
    if found is Need.UNKNOWN:
        return Reason("version_unknown", "it has not reported a firmware version yet")
    if found is Need.NONE:
        return Reason("up_to_date", f"it has {device.firmware_version} already")
    if found is Need.DOWNGRADE and not allow_downgrade:
        return Reason("downgrade", f"{device.firmware_version} is newer than {package.version}")
    return None


def blockers(
    situation: Situation,
    gateway: Device,
    aircraft: Device | None,
    packages: Iterable[FirmwarePackage],
) -> list[Reason]:
    """What must clear before the command is issued (Cloud API: conditions of ota_create).

    What a dock has not told yet blocks where a wrong guess would hurt: its mode, and for its
    aircraft whether that is inside and charged.
    """
    found = [*_link_blockers(situation, gateway), *_dock_blockers(gateway, situation)]
    if aircraft is not None:
        found += _aircraft_blockers(gateway, aircraft)
    found += _flight_blockers(situation, gateway)
    if not _has_room(gateway, packages):
        found.append(
            Reason("storage_full", "the dock has too little free storage for the packages")
        )
    return list({reason.code: reason for reason in found}.values())


def _link_blockers(situation: Situation, gateway: Device) -> Iterable[Reason]:
    if situation.away:
        text = f"bridge {situation.away} is away, and some of what docks say waits for it"
        yield Reason("bridge_down", f"{text}: start it again or remove it")
    elif situation.heard is None:
        yield Reason("bridge_down", "the MQTT bridge is not listening")
    elif _is_behind(situation.heard, situation.now):
        text = "the MQTT bridge still takes in what waited in the broker"
        yield Reason("bridge_down", f"{text}: what the dock said last may be among it")
    settled = gateway.settled_at(settings.SETTLE_TIME)
    if not gateway.is_online or telemetry.is_silent(gateway.last_seen_at, situation.now):
        yield Reason("offline", "the dock is offline")
    elif settled and settled > situation.now:
        yield Reason("settling", "the dock has only just come online")


def _is_behind(heard: Heard, now: dt.datetime) -> bool:
    """Of a bridge that has only just come back nobody knows how old the messages are that wait for it."""
    is_new = heard.until - heard.since < BridgeSession.CATCH_UP
    return heard.is_behind and (is_new or now - heard.until > BEHIND)


def _dock_blockers(gateway: Device, situation: Situation) -> Iterable[Reason]:
    mode, step = gateway.mode_code, gateway.flighttask_step_code
    if mode is None:
        yield Reason("mode_unknown", "the dock has not reported its mode yet")
    elif mode != IDLE:
        yield Reason("busy", f"the dock is {modes.DOCK.get(mode, f'in mode {mode}')}")
    if step not in {None, IDLE_STEP}:
        yield Reason("flight_task", f"the dock has a flight task (step {step})")
    if gateway.emergency_stop_state:
        yield Reason("emergency_stop", "the dock's emergency stop is pressed")
    if gateway.link_workmode:
        yield Reason("4g_enhanced", "4G enhanced transmission is on")
    if gateway.pk in situation.foreign:
        yield Reason("foreign_upgrade", "somebody else is upgrading this dock")


def _aircraft_blockers(gateway: Device, aircraft: Device) -> Iterable[Reason]:
    battery = _battery(gateway, aircraft)
    if gateway.drone_in_dock is None:
        yield Reason("aircraft_unknown", "the dock has not reported whether the aircraft is inside")
    elif gateway.drone_in_dock != 1:
        yield Reason("aircraft_out", "the aircraft is not in the dock")
    if gateway.sub_device_sn not in {"", aircraft.sn}:
        yield Reason(
            "other_aircraft", f"the dock reports another aircraft, {gateway.sub_device_sn}"
        )
    if gateway.sub_device_paired == 0:
        yield Reason("not_paired", "dock and aircraft are not paired")
    if battery is None:
        yield Reason("battery_unknown", "the aircraft's battery has not been reported yet")
    elif battery <= LOW_BATTERY:
        yield Reason(
            "low_battery",
            f"the aircraft's battery is at {battery} %, needs more than {LOW_BATTERY} %",
        )


def _battery(gateway: Device, aircraft: Device) -> int | None:
    """The lowest of what is reported: by the dock, and by the aircraft while it is on."""
    told = [gateway.battery, aircraft.battery if aircraft.is_online else None]
    return min((percent for percent in told if percent is not None), default=None)


def _flight_blockers(situation: Situation, gateway: Device) -> Iterable[Reason]:
    """A dock restarts when it is upgraded: not while its aircraft is in use, upgraded too or not."""
    for aircraft in situation.in_use[gateway.pk]:
        mode = aircraft.mode_code
        if mode is not None and mode not in AIRCRAFT_IDLE:
            doing = modes.AIRCRAFT.get(mode, f"in mode {mode}")
            yield Reason("aircraft_busy", f"the aircraft is {doing}")
        else:
            yield Reason("aircraft_out", "the aircraft is on and not in the dock")


def _has_room(gateway: Device, packages: Iterable[FirmwarePackage]) -> bool:
    """Whether the dock's free storage (KB) holds the packages (bytes); yes where it is not told."""
    if gateway.storage_total is None or gateway.storage_used is None:
        return True
    free = (gateway.storage_total - gateway.storage_used) * 1024
    return free >= sum(package.size for package in packages)


class Combination(NamedTuple):
    """Devices that share model, version and ``compatible_status`` share their need."""

    model_id: int | None
    firmware_number: int | None
    compatible_status: int | None
    devices: int
    need: Need


def combinations(devices: QuerySet[Device]) -> list[Combination]:
    """The combinations among the devices with their need; two queries, whatever their number."""
    library = Library()
    keys = ("model_id", "firmware_number", "compatible_status")
    # Of rows and not of a column, so that an index alone answers.
    rows = devices.order_by().values_list(*keys).annotate(devices=Count("*"))
    return [
        Combination(model, number, compatible, count, need(library, model, number, compatible)[0])
        for model, number, compatible, count in rows
    ]


def having(devices: QuerySet[Device], *wanted: Need) -> QuerySet[Device]:
    """Those of the devices that have one of the needs: the table of ``need`` as a condition.

    It comes from the library alone, so that it is as long with many devices as with few.
    """
    by_number: defaultdict[int, list[int]] = defaultdict(list)
    for model_id, package in Library().by_model().items():
        by_number[package.version_number].append(model_id)
    condition = Q(pk__in=[])
    for number, models in by_number.items():
        compared = [_COMPARED[need_](number) for need_ in _COMPARED if need_ in wanted]
        if compared:
            is_compared = Q(model__in=models, firmware_number__gt=0)
            condition |= is_compared & functools.reduce(operator.or_, compared)
    if Need.UNKNOWN in wanted:
        with_package = [model for models in by_number.values() for model in models]
        condition |= Q(firmware_number=None) | Q(firmware_number=0) | ~Q(model__in=with_package)
    return devices.filter(condition)


# By the number of the newest package, for a version that was reported.
_COMPARED: dict[Need, Callable[[int], Q]] = {
    Need.REGULAR: lambda number: Q(firmware_number__lt=number),
    Need.DOWNGRADE: lambda number: Q(firmware_number__gt=number),
    Need.CONSISTENCY: lambda number: Q(firmware_number=number, compatible_status=1),
    Need.NONE: lambda number: Q(firmware_number=number) & ~Q(compatible_status=1),
}
