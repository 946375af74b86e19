"""Upgrades that somebody else has started: they block ours until they end."""

import datetime as dt
from collections.abc import Collection, Sequence

from fleet.models import Device
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message
from ota.messages import Report
from ota.models import ForeignUpgrade
from ota.upgrades.order import Word, is_before


def record(messages: Sequence[Message[Report]], now: dt.datetime) -> None:
    """Keeps upgrades that we did not start, so that they block ours until they end."""
    if not messages:
        return
    metrics.count("foreign_progress", len(messages))
    newest = {m.sn: m for m in sorted(messages, key=lambda message: message.at)}
    for device in Device.objects.filter(sn__in=newest):
        message = newest[device.sn]
        _record(device, message, now, is_end=message.data.is_end)


def record_taken(messages: Sequence[Message[Report]], now: dt.datetime) -> None:
    """Docks that say late that they took a command which we had given up: they are upgrading."""
    newest = {m.sn: m for m in sorted(messages, key=lambda message: message.at)}
    for device in Device.objects.filter(sn__in=newest) if newest else ():
        _record(device, newest[device.sn], now, is_end=False)


def _record(gateway: Device, message: Message[Report], now: dt.datetime, *, is_end: bool) -> None:
    """Rare, so some statements each are fine."""
    last = ForeignUpgrade.objects.filter(gateway=gateway).order_by("-pk").first()
    if last and last.bid == message.bid and last.progress_at:
        is_known = last.progress_at >= message.at or (last.finished_at and is_end)
        if is_known:
            return
    data, end = message.data, now if is_end else None
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


def is_upgrading(gateway_id: int) -> bool:
    """Whether somebody else is upgrading a dock, as far as it has said so."""
    return ForeignUpgrade.objects.filter(gateway=gateway_id, finished_at=None).exists()


def under_way() -> set[str]:
    """The docks that somebody else upgrades now; few."""
    opened = ForeignUpgrade.objects.filter(finished_at=None)
    return set(opened.values_list("gateway__sn", flat=True))


def end(ends: Collection[tuple[str, str, dt.datetime]], now: dt.datetime) -> None:
    """Ends those of a dock and a ``bid``, if the dock said nothing of them after that, by its clock.

    What passed for foreign before its task was followed, or after it was given up, ends with it.
    """
    if not ends:
        return
    opened = ForeignUpgrade.objects.filter(
        finished_at=None, gateway__sn__in={sn for sn, _, _ in ends}
    )
    found = {
        upgrade.pk: upgrade.gateway_id
        for upgrade in opened.select_related("gateway")
        for sn, bid, at in ends
        if (upgrade.gateway.sn, upgrade.bid) == (sn, bid) and not _is_older(at, upgrade, now)
    }
    if found:
        ForeignUpgrade.objects.filter(pk__in=found).update(finished_at=now)
        Device.objects.filter(pk__in=list(found.values())).wake(now)


def _is_older(at: dt.datetime, upgrade: ForeignUpgrade, now: dt.datetime) -> bool:
    dock, last = upgrade.gateway, Word(upgrade.progress_at, upgrade.last_seen_at)
    return is_before(Word(at, now), last, Word(dock.topology_at, dock.topology_seen_at))


def forget_silent(limit: dt.datetime, now: dt.datetime) -> None:
    """What was not heard of since then blocks no longer."""
    silent = ForeignUpgrade.objects.filter(finished_at=None, last_seen_at__lt=limit)
    Device.objects.filter(foreign_upgrades__in=silent).update(changed_at=now)
    silent.update(finished_at=now, device_status="silent")
