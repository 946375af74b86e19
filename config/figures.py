"""The figures for Prometheus: what the processes counted together, and what the database holds now."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import redis
from django.db import DatabaseError, InterfaceError
from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.models import Device
from mqtt_bridge import metrics
from mqtt_bridge.metrics import Sample
from mqtt_bridge.models import BridgeSession
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.states import PackageState, TaskStatus

PREFIX = "fleet_ota_"
_BUCKET, _SUM, _COUNT = "_bucket", "_sum", "_count"

_MEANINGS = {
    "messages": "Messages from devices, by kind and outcome.",
    "dropped_keys": "Parts of messages that had an impossible value.",
    "unknown_keys": "Keys that no document names.",
    "unknown_values": "Words that no document names, by field.",
    "unknown_methods": "Messages with a method that nothing handles.",
    "refused_children": "Aircraft that a dock named and that are not its own, by reason.",
    "refused_binds": "Devices that a dock wanted to bind and may not, by reason.",
    "organizations_taken": "Devices taken out of an organization into which another dock had brought them.",
    "foreign_replies": "Replies to commands that are not ours.",
    "foreign_progress": "Reports about upgrades that somebody else started.",
    "commands": "Upgrade commands, by whether the broker confirmed them.",
    "batch_size": "Messages that the bridge brought in at once.",
    "batch_seconds": "Time that bringing in a batch took.",
    "reply_seconds": "Time from an upgrade command to the dock's reply.",
    "packages_damaged": "Packages whose file was found to be damaged.",
    "issue_seconds": "Time that a task was ready before its command was sent.",
}


class _Figures(Collector):
    """Asks anew each time; a part that is away costs its own figures only."""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        yield from _counted()
        yield from _stored()


def _counted() -> Iterator[Metric]:
    """The sums of all processes, from Redis."""
    try:
        samples = list(metrics.read())
    except redis.RedisError:
        samples, is_up = [], 0
    else:
        is_up = 1
    yield _gauge("redis_up", "Whether Redis answers; without it the sums are missing.", is_up)
    histograms = {s.name.removesuffix(_BUCKET) for s in samples if s.name.endswith(_BUCKET)}
    by_name: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[_family(sample.name, histograms)].append(sample)
    for name, found in by_name.items():
        yield _histogram(name, found) if name in histograms else _counter(name, found)


def _family(name: str, histograms: set[str]) -> str:
    for ending in (_BUCKET, _SUM, _COUNT):
        if name.endswith(ending) and name.removesuffix(ending) in histograms:
            return name.removesuffix(ending)
    return name


def _counter(name: str, samples: Iterable[Sample]) -> Metric:
    metric = Metric(PREFIX + name, _MEANINGS.get(name, name), "counter")
    for sample in samples:
        metric.add_sample(f"{PREFIX}{name}_total", sample.labels, sample.value)
    return metric


def _histogram(name: str, samples: Iterable[Sample]) -> Metric:
    """Buckets from the smallest up, those that are empty included."""
    metric = Metric(PREFIX + name, _MEANINGS.get(name, name), "histogram")
    series: defaultdict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for sample in samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        part = sample.labels.get("le", sample.name.removeprefix(name))
        series[tuple(sorted(labels.items()))][part] = sample.value
    for key, parts in series.items():
        for bound in (*(f"{bound:g}" for bound in metrics.BUCKETS), "+Inf"):
            value = parts.get(bound, 0.0)
            metric.add_sample(PREFIX + name + _BUCKET, {**dict(key), "le": bound}, value)
        for ending in (_SUM, _COUNT):
            metric.add_sample(PREFIX + name + ending, dict(key), parts.get(ending, 0.0))
    return metric


def _stored() -> Iterator[Metric]:
    """How things stand, from the database."""
    try:
        yield from list(_standing(timezone.now()))
    except (DatabaseError, InterfaceError):
        yield _gauge("database_up", "Whether the database answers.", 0)
    else:
        yield _gauge("database_up", "Whether the database answers.", 1)


def _standing(now: dt.datetime) -> Iterator[Metric]:
    yield _shares("tasks", "Upgrade tasks by status.", "status", TaskStatus.values, _tasks())
    devices = Device.objects.order_by().values_list("presence").annotate(Count("pk"))
    presences = Device.Presence.values
    yield _shares("devices", "Devices by presence.", "presence", presences, dict(devices))
    ready = UpgradeTask.objects.waiting().filter(is_ready=True)
    oldest = ready.aggregate(oldest=Min("ready_at"))["oldest"]
    age = (now - oldest).total_seconds() if oldest else 0.0
    yield _gauge("queue_age_seconds", "How long the oldest task that is ready has waited.", age)
    states = FirmwarePackage.objects.order_by().values_list("state").annotate(Count("pk"))
    words = PackageState.values
    yield _shares("packages", "Firmware packages by state.", "state", words, dict(states))
    damaged = FirmwarePackage.objects.damaged().count()
    yield _gauge("damaged_packages", "Packages whose file is damaged at present.", damaged)
    is_heard = BridgeSession.objects.listening_since(now) is not None
    yield _gauge("bridge_up", "Whether a bridge is connected to the broker.", is_heard)
    away = BridgeSession.objects.away(now).count()
    yield _gauge("bridges_away", "Bridges of a shared group that are not connected.", away)


def _tasks() -> dict[str, int]:
    """By status; those of rollouts that have ended were counted then, however many there are by now."""
    going = list(Rollout.objects.filter(finished_at=None).values_list("pk", flat=True))
    found = Counter(UpgradeTask.objects.filter(rollout__in=going).shares())
    ended = Rollout.objects.exclude(finished_at=None).order_by()
    for counts in ended.values_list("final_counts", flat=True):
        found.update(counts or {})
    return found


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, meaning, value=float(value))


def _shares(
    name: str, meaning: str, label: str, values: Iterable[str], found: dict[str, int]
) -> Metric:
    metric = GaugeMetricFamily(PREFIX + name, meaning, labels=[label])
    for value in values:
        metric.add_metric([value], found.get(value, 0))
    return metric


registry = CollectorRegistry(auto_describe=False)
registry.register(_Figures())
