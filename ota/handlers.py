"""What docks say about upgrades."""

from collections.abc import Iterator, Sequence

from django.db.models import Q
from django.utils import timezone

from fleet.properties import Properties
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message, Reply, result
from mqtt_bridge.router import on
from mqtt_bridge.topics import Kind
from ota import messages as ota_messages
from ota.messages import Report
from ota.models import UpgradeTask
from ota.upgrades import proof, replies, reports


@on(Kind.STATE, data=Properties)
@on(Kind.OSD, data=Properties)
def reported(messages: Sequence[Message[Properties]]) -> Sequence[Reply]:
    """A report may be the proof of an upgrade; what it says is stored by then."""
    senders = {message.sn for message in messages}
    concerned = Q(gateway__sn__among=senders) | Q(targets__device__sn__among=senders)
    in_flight = UpgradeTask.objects.in_flight().filter(concerned)
    proof.confirm(UpgradeTask.objects.filter(pk__in=in_flight.values("pk")), timezone.now())
    return ()


@on(Kind.SERVICES_REPLY, ota_messages.METHOD, data=Report)
@on(Kind.SERVICES_REPLY, "", data=Report)
def replied(messages: Sequence[Message[Report]]) -> Sequence[Reply]:
    """Some firmware leaves the method out; the ``bid`` tells whose reply it is."""
    replies.record(messages, timezone.now())
    return ()


@on(Kind.EVENTS, "ota_progress", data=Report)
def progressed(messages: Sequence[Message[Report]]) -> Iterator[Reply]:
    """Answered where the dock asks for it, and at the end in any case."""
    reports.record_progress(messages, timezone.now())
    for message in messages:
        if message.need_reply or message.data.is_end:
            yield message.reply(result(0))


@on(Kind.EVENTS, "", data=Report)
def progressed_without_method(messages: Sequence[Message[Report]]) -> Iterator[Reply]:
    """Some firmware leaves the method out; what is no progress is an event that nobody knows."""
    progress, unknown = reports.divide(messages)
    yield from progressed(progress)
    for message in unknown:
        metrics.count("unknown_methods", kind=message.kind)
        if message.need_reply:
            yield message.reply(result(0))
