"""Upgrades that somebody else has started: they block ours until they end."""

import datetime as dt
from collections.abc import Collection, Sequence

from fleet.models import Device
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message
from ota.messages import Report
from ota.models import ForeignUpgrade


def record(messages: Sequence[Message[Report]], now: dt.datetime) -> None:
    """Keeps upgrades that we did not start, so that they block ours until they end."""
    if not messages:
        return
    metrics.count("foreign_progress", len(messages))
    newest = {m.sn: m for m in sorted(messages, key=lambda message: message.at)}
    for device in Device.objects.filter(sn__in=newest):
        _record(device, newest[device.sn], now)


def _record(gateway: Device, message: Message[Report], now: dt.datetime) -> None:
    """Rare, so some statements each are fine."""
    last = ForeignUpgrade.objects.filter(gateway=gateway).order_by("-pk").first()
    if last and last.bid == message.bid and last.progress_at:
        is_known = last.progress_at >= message.at or (last.finished_at and message.data.is_end)
        if is_known:
            return
    data, end = message.data, now if message.data.is_end else None
    values = {
        "bid": message.bid,
        "device_status": data.status,
        "percent": data.percent,
        "step": data.step,
        "result": data.result,
        "last_seen_at": now,
        "progress_at": message.at,
        "finished_at": end,
    }
    ForeignUpgrade.objects.update_or_create(
        gateway=gateway,
        finished_at=None,
        defaults=values,
        create_defaults=values | {"first_seen_at": now},
    )
    Device.objects.filter(pk=gateway.pk).update(changed_at=now)


def under_way() -> set[str]:
    """The docks that somebody else upgrades now; few."""
    opened = ForeignUpgrade.objects.filter(finished_at=None)
    return set(opened.values_list("gateway__sn", flat=True))


def end(ends: Collection[tuple[str, str]], now: dt.datetime) -> None:
    """Ends those of a dock and a ``bid``.

    What passed for foreign before its task was followed, or after it was given up, ends with it.
    """
    if not ends:
        return
    opened = ForeignUpgrade.objects.filter(finished_at=None, gateway__sn__in={sn for sn, _ in ends})
    found = {
        upgrade.pk: upgrade.gateway_id
        for upgrade in opened.select_related("gateway")
        if (upgrade.gateway.sn, upgrade.bid) in ends
    }
    if found:
        ForeignUpgrade.objects.filter(pk__in=found).update(finished_at=now)
        Device.objects.filter(pk__in=list(found.values())).wake(now)


def forget_silent(limit: dt.datetime, now: dt.datetime) -> None:
    """What was not heard of since then blocks no longer."""
    silent = ForeignUpgrade.objects.filter(finished_at=None, last_seen_at__lt=limit)
    Device.objects.filter(foreign_upgrades__in=silent).update(changed_at=now)
    silent.update(finished_at=now, device_status="silent")
