"""The console with many rows, each page beside the same page with few: ``python -m benchmarks pages``.

Both databases are open at once and asked in turn, each page through Django's whole stack of middleware, as an
administrator's browser asks. A page is to take at most one and a half times as long, or less than 100 ms. The work of a
preview grows with what is chosen: that of a whole model is compared by the device.
"""

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any
from urllib.parse import urlencode

import psycopg
from django.contrib.auth import get_user_model
from django.db import connections
from django.db.models import Q
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from benchmarks import filling, ground, results
from benchmarks.filling import Amounts
from benchmarks.results import Result, Size
from fleet.models import Device, DeviceModel, Organization, Site
from ota.admin import clones
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.needs import Need
from ota.rows import FILTERS

LISTS = (
    *("fleet_device", "fleet_site", "fleet_organization", "fleet_devicemodel"),
    *("ota_firmwarepackage", "ota_productcode", "ota_rollout", "ota_organizationpolicy"),
    *("ota_upgradetask", "ota_foreignupgrade", "ota_webhook", "ota_webhookdelivery"),
    *("mqtt_bridge_failedmessage", "mqtt_bridge_bridgesession", "auth_user", "auth_group"),
)
PAGE = 50  # rows of the lists of devices and of tasks
CHOSEN = 1000  # devices of the smaller preview
# Every fourth dock with its aircraft: as many as a rollout takes where there are many.
WHOLE = "preview of all docks of a model with aircraft"

TOPIC = "pages"
GOAL = 100.0  # ms
# Few and many. SQLite has less history: it is for fewer docks.
SMALL = {"SQLite": (Amounts(40, 1000, 3), Amounts(80, 2000, 3))}
FULL = {
    "SQLite": (Amounts(1000, 10_000, 3), Amounts(100_000, 1_000_000, 3)),
    "PostgreSQL": (Amounts(1000, 10_000, 10), Amounts(100_000, 1_000_000, 10)),
}


def run(size: Size) -> Iterable[Result]:
    with ground.folder() as path, ground.databases(path, size) as found:
        for database, url in found.items():
            few, many = (SMALL if size is Size.SMALL else FULL)[database]
            consoles = _Console(url, few), _Console(_another(url), many)
            names = [name for name in consoles[1].urls if name != WHOLE]
            for name in names[:: 10 if size is Size.SMALL else 1]:
                yield _compared(f"{name}, {database}", name, consoles, size)
            yield _a_device(f"{WHOLE}, {database}", consoles, size)
            for console in consoles:
                console.close()


class _Console:
    """An administrator's browser on a database of its own."""

    def __init__(self, url: str, amounts: Amounts) -> None:
        ground.use(url)
        filling.make(amounts)
        filling.settle()
        self.client = Client(headers={"host": "127.0.0.1"})
        self.client.force_login(get_user_model().objects.create_superuser("root"))
        self.urls = addresses()
        self.connection = connections["default"]

    def queries(self, name: str) -> int:
        """How many a page takes; counting them takes time of its own."""
        connections["default"] = self.connection
        with CaptureQueriesContext(self.connection) as found:
            self.ask(name)
        return len(found)

    def ask(self, name: str) -> float:
        """The milliseconds that a page takes."""
        connections["default"] = self.connection
        started = time.perf_counter()
        reply = self.client.get(self.urls[name])
        seconds = time.perf_counter() - started
        if reply.status_code != 200:
            raise RuntimeError(f"{name}: {self.urls[name]} answers {reply.status_code}")
        return 1000 * seconds

    def planned(self) -> int:
        """How many devices are chosen for the preview of a whole model, which must not be refused."""
        connections["default"] = self.connection
        reply: Any = self.client.get(self.urls[WHOLE])
        if not reply.context_data["preview"]:
            raise RuntimeError(f"{WHOLE} is refused")
        return 2 * Device.objects.filter(model__key=filling.DOCKS[1]).count()

    def close(self) -> None:
        self.connection.close()


def _another(url: str) -> str:
    """The address of a second database beside this one."""
    if url.startswith("sqlite"):
        return url.replace("fleet.sqlite3", "many.sqlite3")
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("CREATE DATABASE many")
    return f"{url.rpartition('/')[0]}/many"


def _compared(what: str, name: str, consoles: Sequence[_Console], size: Size) -> Result:
    # What a process keeps is kept from here on.
    _, queries = (console.queries(name) for console in consoles)
    rounds = [[console.ask(name) for console in consoles] for _ in range(size.rounds)]
    few, many = ([found[side] for found in rounds] for side in (0, 1))
    goal = "<= 100" if median(many) <= GOAL else ">= 0.67 x"
    ratio = results.ratio(many, few, less_is_better=True)
    peer = "few rows"
    return Result(
        TOPIC, what, median(many), peer, median(few), "ms", ratio, goal, f"{queries} queries"
    )


def _a_device(what: str, consoles: Sequence[_Console], size: Size) -> Result:
    """The preview of a whole model by the device, since the larger fleet has more of them."""
    numbers = [console.planned() for console in consoles]
    rounds = [[console.ask(WHOLE) for console in consoles] for _ in range(size.rounds)]
    few, many = (
        [1000 * found[side] / number for found in rounds] for side, number in enumerate(numbers)
    )
    ratio = results.ratio(many, few, less_is_better=True)
    note = f"{numbers[1]:,} devices, and {numbers[0]:,} of few rows"
    return Result(
        TOPIC, f"{what}: a device", median(many), "few rows", median(few), "us", ratio,
        ">= 0.67 x", note,
    )  # fmt: skip


def addresses() -> dict[str, str]:
    """The address of each page, by what it shows; from the rows that are there."""
    return {
        "dashboard": reverse("admin:index"),
        **{name: _list(name) for name in LISTS},
        **dict(_of_devices()),
        **dict(_of_tasks()),
        **dict(_of_rollouts()),
        "package": reverse("admin:ota_firmwarepackage_change", args=[1]),
        "organization": reverse("admin:fleet_organization_change", args=[1]),
        "figures": "/metrics",
    }


def _of_devices() -> Iterator[tuple[str, str]]:
    pages = max(1, Device.objects.count() // PAGE)
    dock = UpgradeTask.objects.latest("pk").gateway
    named = Device.objects.exclude(callsign="").latest("pk")
    chosen: dict[str, dict[str, Any]] = {
        "need any": {"need": "any"},
        **{f"need {need}": {"need": need.value} for need in Need},
        "kind": {"model__kind__exact": "dock"},
        "model": {"model__id__exact": dock.model_id},
        "organization": {"organization__id__exact": Organization.objects.latest("pk").pk},
        "site": {"site__id__exact": Site.objects.latest("pk").pk},
        "online": {"presence__exact": "online"},
        "offline": {"presence__exact": "offline"},
        "claimed": {"claimed": "yes"},
        "unclaimed": {"claimed": "no"},
        "firmware": {"firmware_number": dock.firmware_number},
        "need and organization": {
            "need": "any",
            "organization__id__exact": Organization.objects.latest("pk").pk,
        },
        "online, middle page": {"presence__exact": "online", "p": max(1, pages // 2)},
        "search: whole serial number": {"q": dock.sn},
        "search: beginning of serial numbers": {"q": dock.sn[:8]},
        "search: part of a serial number": {"q": dock.sn[6:12]},
        "search: callsign": {"q": named.callsign},
        "search: beginning of callsigns": {"q": "dock n"},
        "search: nothing": {"q": "nobody"},
        "middle page": {"p": max(1, pages // 2)},
        "last page": {"p": pages},
        **{f"by column {column}": {"o": column} for column in (2, 3, 4, 7, 8)},
    }
    for name, query in chosen.items():
        yield f"devices, {name}", _list("fleet_device", **query)
    yield "device: a dock", reverse("admin:fleet_device_change", args=[dock.pk])
    preview = reverse("admin:fleet_device_upgrade")
    of_few = Q(pk__lte=CHOSEN // 2) | Q(gateway__lte=CHOSEN // 2)  # half of them aircraft
    some = Device.objects.filter(of_few).values_list("pk", flat=True)
    yield "preview of 1,000 devices", f"{preview}?{urlencode({'pks': ','.join(map(str, some))})}"
    model = DeviceModel.objects.get(key=filling.DOCKS[1])
    whole = {"query": urlencode({"model__id__exact": model.pk}), "with_aircraft": "on"}
    yield WHOLE, f"{preview}?{urlencode(whole)}"


def _of_tasks() -> Iterator[tuple[str, str]]:
    pages = max(1, UpgradeTask.objects.count() // PAGE)
    task = UpgradeTask.objects.select_related("gateway").latest("pk")
    since = (timezone.now() - dt.timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
    chosen: dict[str, dict[str, Any]] = {
        **{f"status {status}": {"status__exact": status} for status in ("pending", "ok", "failed")},
        "to settle": {
            "status__in": "failed,rejected,timeout",
            "resolved_at__isnull": "1",
            "finished_at__isnull": "0",
        },
        "failed of late": {"status__in": "failed", "finished_at__gte": since},
        "in flight": {"status__in": "in_progress,paused,sent,verifying"},
        "rollout": {"rollout": task.rollout_id},
        "package": {"package": FirmwarePackage.objects.latest("pk").pk},
        "search: serial number": {"q": task.gateway.sn},
        "search: part of a serial number": {"q": task.gateway.sn[6:12]},
        "search: bid": {"q": task.bid},
        "middle page": {"p": max(1, pages // 2)},
        "last page": {"p": pages},
        "status ok, middle page": {"status__exact": "ok", "p": max(1, pages // 2)},
        **{f"by column {column}": {"o": column} for column in (1, 2, 3, 4, 6, 7)},
    }
    for name, query in chosen.items():
        yield f"tasks, {name}", _list("ota_upgradetask", **query)
    yield "task: newest", reverse("admin:ota_upgradetask_change", args=[task.pk])
    long = reverse("admin:ota_upgradetask_change", args=[UpgradeTask.objects.earliest("pk").pk])
    yield "task: 1,000 events", long
    yield "task: 1,000 events, middle", f"{long}?page=5"


def _of_rollouts() -> Iterator[tuple[str, str]]:
    rollout = Rollout.objects.latest("pk")
    page = reverse("admin:ota_rollout_change", args=[rollout.pk])
    for key, found in FILTERS.items():
        yield f"rollout, {found.label.lower()}", f"{page}?{urlencode({'status': key})}"
    rest = {"query": urlencode({clones.REST_OF: rollout.pk})}
    yield "preview of a clone", f"{reverse('admin:fleet_device_upgrade')}?{urlencode(rest)}"
    tasks = rollout.tasks.count()
    yield "rollout, middle page", f"{page}?page={max(1, tasks // PAGE // 2)}"
    yield "rollout, last page", f"{page}?page={max(1, tasks // PAGE)}"
    report = reverse("admin:ota_rollout_report", args=[rollout.pk])
    yield "report", report
    yield "report, last page", f"{report}?page={max(1, tasks // 100)}"


def _list(name: str, **query: Any) -> str:
    url = reverse(f"admin:{name}_changelist")
    return f"{url}?{urlencode(query)}" if query else url
