"""The console's first page: the fleet by need and version, what is running, what needs attention."""

import datetime as dt
from collections import defaultdict
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone

from config import env, warnings
from fleet import versions
from fleet.models import Device, DeviceModel, Organization
from mqtt_bridge.models import FailedMessage
from ota import needs, rows, states
from ota.admin.device_filters import ANY, NEEDS, WANTING
from ota.models import FirmwarePackage, ForeignUpgrade, Rollout, UpgradeTask, Wave
from ota.needs import Combination, Need
from ota.states import TaskStatus

RECENT = dt.timedelta(days=7)
LISTED = 6  # tasks and rollouts
SEGMENTS = 6  # versions of one model; the rest is one segment


class Part(NamedTuple):
    """A part of a bar, and of its legend; the share in percent."""

    text: str
    colour: str
    devices: int
    share: float
    url: str  # empty where no list shows just these devices


class ModelRow(NamedTuple):
    """One model's devices by version."""

    name: str
    url: str
    devices: int
    newest: str
    parts: list[Part]


class Tile(NamedTuple):
    """One number, and where to see what it counts."""

    text: str
    number: int
    url: str
    colour: str = ""


class Step(NamedTuple):
    """Something to do before the first upgrade; the permission that its button needs."""

    text: str
    explanation: str
    url: str
    permission: str
    button: str
    is_done: bool


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the page shows to this user; a fixed number of queries."""
    now = timezone.now()
    found: dict[str, Any] = {"warnings": warnings.found(now), "tiles": [], "attention": []}
    if request.user.has_perm("ota.view_firmwarepackage"):
        found["warnings"] += warnings.of_library(now)
    if request.user.has_perm("ota.view_rollout"):
        found["warnings"] += warnings.of_rollouts()
        found["rollouts"] = _rollouts()
    if request.user.has_perm("fleet.view_device"):
        found |= _fleet(request)
    if request.user.has_perm("ota.view_upgradetask"):
        found |= _upgrades(now)
    tiles = [*found.pop("fleet_tiles", []), *found.pop("task_tiles", [])]
    attention = _attention(request, found, now)
    return context | found | {"title": "Dashboard", "tiles": tiles, "attention": attention}


# The fleet


def _fleet(request: HttpRequest) -> dict[str, Any]:
    combinations = needs.combinations(Device.objects.all())
    total = sum(c.devices for c in combinations)
    if not total:
        return {"steps": [(s, request.user.has_perm(s.permission)) for s in _steps()]}
    by_need = _by_need(combinations, total)
    wanting = sum(c.devices for c in combinations if c.need in WANTING)
    online = Device.objects.filter(presence=Device.Presence.ONLINE).count()
    return {
        "unclaimed": Device.objects.filter(organization=None).count(),
        "by_need": by_need,
        "by_model": _by_model(combinations),
        "fleet_tiles": [
            Tile(f"device{pluralize(total)}", total, _devices()),
            Tile("online", online, _devices(presence__exact="online"), "success"),
            Tile(
                f"need{pluralize(wanting, 's,')} an upgrade", wanting, _devices(need=ANY), "warning"
            ),
        ],
    }


def _by_need(combinations: list[Combination], total: int) -> list[Part]:
    counts: defaultdict[Need, int] = defaultdict(int)
    for found in combinations:
        counts[found.need] += found.devices
    return [
        Part(text, colour, counts[need], _share(counts[need], total), _devices(need=need.value))
        for need, (text, colour) in NEEDS.items()
        if counts[need]
    ]


def _by_model(combinations: list[Combination]) -> list[ModelRow]:
    """The models with their versions, the most frequent model first."""
    names = dict(DeviceModel.objects.values_list("pk", "name"))
    library = needs.Library()
    by_model: defaultdict[int | None, list[Combination]] = defaultdict(list)
    for found in combinations:
        by_model[found.model_id].append(found)
    rows = []
    for model_id, among in by_model.items():
        package = library.package(model_id)
        rows.append(
            ModelRow(
                name=names.get(model_id or 0, "Model not known yet"),
                url=_devices(**_of_model(model_id)),
                devices=sum(found.devices for found in among),
                newest=package.version if package else "",
                parts=_version_parts(model_id, among),
            )
        )
    return sorted(rows, key=lambda row: -row.devices)


def _version_parts(model_id: int | None, among: list[Combination]) -> list[Part]:
    """The versions of one model, newest first; a version that needs nothing is green."""
    total = sum(found.devices for found in among)
    counts: defaultdict[int | None, int] = defaultdict(int)
    colours: dict[int | None, str] = {}
    for found in among:
        number = found.firmware_number
        counts[number] += found.devices
        is_newest = found.need in {Need.NONE, Need.CONSISTENCY}
        colours[number] = "success" if is_newest else NEEDS[found.need][1]
    ordered = sorted(counts, key=lambda number: -(number or 0))
    parts = [
        Part(
            _version(number),
            colours[number],
            counts[number],
            _share(counts[number], total),
            _devices(**_of_model(model_id), firmware_number=_written(number)),
        )
        for number in ordered[:SEGMENTS]
    ]
    if rest := sum(counts[number] for number in ordered[SEGMENTS:]):
        parts.append(Part("older", "", rest, _share(rest, total), ""))
    return parts


def _version(number: int | None) -> str:
    if number:
        return versions.text(number)
    return "not readable" if number == 0 else "not reported"


def _written(number: int | None) -> str:
    return "none" if number is None else str(number)


def _of_model(model_id: int | None) -> dict[str, str]:
    return {"model__id__exact": str(model_id)} if model_id else {"model__isnull": "1"}


def _share(count: int, total: int) -> float:
    return round(100 * count / total, 2)


def _devices(**filters: str) -> str:
    return _list("fleet_device", **filters)


def _list(page: str, **filters: str) -> str:
    url = reverse(f"admin:{page}_changelist")
    return f"{url}?{urlencode(filters)}" if filters else url


# Upgrades


def _upgrades(now: dt.datetime) -> dict[str, Any]:
    since = now - RECENT
    ended = UpgradeTask.objects.filter(status__in=states.UNSUCCESSFUL, finished_at__gte=since)
    # Each has an index of its own, which one query for both could not use.
    counts = UpgradeTask.objects.open().shares() | ended.shares()
    in_flight = sum(counts.get(one, 0) for one in states.IN_FLIGHT)
    running = UpgradeTask.objects.in_flight().select_related("gateway", "rollout")
    failed = ended.select_related("gateway")
    return {
        "running": [_shown(task) for task in running.order_by("-status_at")[:LISTED]],
        "failed": [_shown(task) for task in failed.order_by("-finished_at")[:LISTED]],
        "failures": {one: counts.get(one, 0) for one in states.UNSUCCESSFUL},
        "task_tiles": [
            Tile("upgrading", in_flight, _tasks(states.IN_FLIGHT), "info"),
            Tile("waiting to start", counts.get(TaskStatus.PENDING, 0), _tasks({"pending"})),
        ],
    }


def _shown(task: UpgradeTask) -> tuple[UpgradeTask, str]:
    return task, states.COLOURS.get(task.status, "")


def _rollouts() -> list[tuple[Rollout, int, int]]:
    """The newest that are not over, each with how many tasks it has and how many are over."""
    found = list(Rollout.objects.filter(finished_at=None)[:LISTED])
    counts = rows.counts(found)
    return [
        (one, sum(counts[one.pk].values()), rows.total(counts[one.pk], states.TERMINAL))
        for one in found
    ]


def _tasks(statuses: Any, **filters: str) -> str:
    return _list("ota_upgradetask", status__in=",".join(sorted(statuses)), **filters)


# What needs attention


def _attention(request: HttpRequest, found: dict[str, Any], now: dt.datetime) -> list[Tile]:
    user, since = request.user, now - RECENT
    moment = f"{since:%Y-%m-%dT%H:%M:%SZ}"
    tiles = _undecided() if user.has_perm("ota.view_rollout") else []
    tiles += [
        Tile(
            f"upgrade{pluralize(count)} {TaskStatus(status).label.lower()} in the last {RECENT.days} days",
            count,
            _tasks({status}, finished_at__gte=moment),
            "danger",
        )
        for status, count in sorted(found.get("failures", {}).items())
    ]
    if user.has_perm("ota.view_foreignupgrade"):
        count = ForeignUpgrade.objects.filter(finished_at=None).count()
        url = _list("ota_foreignupgrade", finished_at__isnull="1")
        text = f"dock{pluralize(count)} upgraded by somebody else right now"
        tiles.append(Tile(text, count, url, "warning"))
    if user.has_perm("mqtt_bridge.view_failedmessage"):
        count = FailedMessage.objects.filter(at__gte=since).count()
        url = _list("mqtt_bridge_failedmessage", at__gte=moment)
        text = f"message{pluralize(count)} not understood in the last {RECENT.days} days"
        tiles.append(Tile(text, count, url))
    unclaimed = found.get("unclaimed", 0)
    text = f"unclaimed device{pluralize(unclaimed)}"
    tiles.append(Tile(text, unclaimed, _devices(claimed="no"), "warning"))
    return [tile for tile in tiles if tile.number]


def _undecided() -> list[Tile]:
    """What waits for somebody's decision; three queries."""
    failed = UpgradeTask.objects.needing_attention().count()
    clicks = _waves_for_a_click().values_list("rollout", flat=True).distinct()
    approvals = Rollout.objects.filter(status=Rollout.Status.NEEDS_APPROVAL)
    return [
        _waiting_rollouts(
            "waiting for approval", approvals.values_list("pk", flat=True), "needs_approval"
        ),
        _waiting_rollouts("waiting for a click to open the next wave", clicks, "running"),
        Tile(
            f"failed upgrade{pluralize(failed)} to retry or dismiss",
            failed,
            _tasks(states.UNSUCCESSFUL, resolved_at__isnull="1", finished_at__isnull="0"),
            "danger",
        ),
    ]


def _waves_for_a_click() -> "QuerySet[Wave, Wave]":
    """Whose gate is met where somebody wants to be asked, or whose last wave was canceled whole."""
    last = Wave.objects.filter(rollout=OuterRef("rollout"), number=OuterRef("number") - 1)
    tasks = UpgradeTask.objects.filter(wave=OuterRef("pk"))
    proves_nothing = ~Exists(tasks.exclude(status=TaskStatus.CANCELED))
    waiting = UpgradeTask.objects.filter(
        rollout=OuterRef("rollout"), wave__opened_at=None, status=TaskStatus.PENDING
    )
    asks = Q(Exists(last.filter(met_at__isnull=False)), rollout__asks_between_waves=True)
    asks |= Q(Exists(last.filter(proves_nothing, opened_at__isnull=False)), Exists(waiting))
    return Wave.objects.filter(asks, rollout__status=Rollout.Status.RUNNING, opened_at=None)


def _waiting_rollouts(what: str, found: "QuerySet[Any, int]", status: str) -> Tile:
    """Leads to the one, or to the list where there are more."""
    pks = list(found)
    url = _list("ota_rollout", status__exact=status)
    if len(pks) == 1:
        url = reverse("admin:ota_rollout_change", args=pks)
    return Tile(f"rollout{pluralize(pks)} {what}", len(pks), url, "warning")


# Before the first device


def _steps() -> list[Step]:
    broker = env.without_password(settings.MQTT_URL)
    return [
        Step(
            "Make an organization",
            "Docks bind to it with its id and its binding code.",
            reverse("admin:fleet_organization_add"),
            "fleet.add_organization",
            "Add organization",
            Organization.objects.exists(),
        ),
        Step(
            "Add firmware packages",
            "The vendor's zips as they were downloaded: one for each model of dock and aircraft.",
            reverse("admin:ota_firmwarepackage_add"),
            "ota.add_firmwarepackage",
            "Add package",
            FirmwarePackage.objects.available().exists(),
        ),
        Step(
            "Connect a dock",
            f"In DJI Pilot 2, choose a third-party cloud and give the dock the broker ({broker} from here), "
            "the organization's id and its binding code. The dock appears by itself.",
            reverse("admin:fleet_organization_changelist"),
            "fleet.change_organization",
            "See id and code",
            False,
        ),
    ]
