"""What docks say about themselves: topology, properties, and what they ask for."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.utils import timezone

from fleet import binding, presence, telemetry
from fleet.binding import BindRequest, OrganizationRequest, StatusRequest
from fleet.presence import Topology
from fleet.properties import Properties
from mqtt_bridge import metrics
from mqtt_bridge.envelope import Message, Nothing, Reply, result
from mqtt_bridge.router import ANY, on
from mqtt_bridge.topics import Kind

logger = logging.getLogger(__name__)

NOT_OFFERED = -1


@on(Kind.STATUS, "update_topo", data=Topology)
def update_topo(messages: Sequence[Message[Topology]]) -> Iterator[Reply]:
    presence.update(messages, timezone.now())
    for message in messages:
        yield message.reply(result(0))


@on(Kind.STATUS, "", data=Topology)
def topology_without_method(messages: Sequence[Message[Topology]]) -> Iterator[Reply]:
    """Some firmware leaves the method out; a topology tells what the dock is."""
    yield from update_topo([message for message in messages if message.data.type is not None])


@on(Kind.OSD, data=Properties, unless=telemetry.is_known)
def osd(messages: Sequence[Message[Properties]]) -> Sequence[Reply]:
    telemetry.record(messages, timezone.now())
    return ()


@on(Kind.STATE, data=Properties)
def state(messages: Sequence[Message[Properties]]) -> Sequence[Reply]:
    telemetry.record(messages, timezone.now())
    return ()


@on(Kind.REQUESTS, "config", data=Nothing)
def config(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    """The licence of the operator's Cloud API app; this reply alone has no ``result``."""
    if missing := binding.missing_of_app():
        logger.warning("a dock asks for the licence and %s not set: it will not bind", missing)
    for message in messages:
        yield message.reply(
            {
                "app_id": settings.DJI_APP_ID,
                "app_key": settings.DJI_APP_KEY,
                "app_license": settings.DJI_APP_LICENSE,
                "ntp_server_host": settings.NTP_SERVER_HOST,
                "ntp_server_port": 123,
            }
        )


@on(Kind.REQUESTS, "airport_bind_status", data=StatusRequest)
def bind_status(messages: Sequence[Message[StatusRequest]]) -> Iterator[Reply]:
    for message in messages:
        yield message.reply(binding.status(message))


@on(Kind.REQUESTS, "airport_organization_get", data=OrganizationRequest)
def organization(messages: Sequence[Message[OrganizationRequest]]) -> Iterator[Reply]:
    for message in messages:
        yield message.reply(binding.organization(message, timezone.now()))


@on(Kind.REQUESTS, "airport_organization_bind", data=BindRequest)
def bind(messages: Sequence[Message[BindRequest]]) -> Iterator[Reply]:
    for message in messages:
        yield message.reply(binding.bind(message, timezone.now()))


@on(Kind.REQUESTS, "flight_areas_get", data=Nothing)
def flight_areas(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    """None; unanswered, older docks wait 40 s before each take-off."""
    for message in messages:
        yield message.reply({"result": 0, "output": {"files": []}})


@on(Kind.REQUESTS, "offline_map_get", data=Nothing)
def offline_map(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    """None; unanswered, older docks wait 40 s before each take-off."""
    for message in messages:
        yield message.reply(result(0))


@on(Kind.REQUESTS, "storage_config_get", data=Nothing)
def storage_config(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    """Media stay on the dock: we keep firmware only."""
    for message in messages:
        yield message.reply({"result": NOT_OFFERED, "output": "media upload is not offered"})


@on(Kind.REQUESTS, ANY, data=Nothing)
def unknown_request(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    for message in messages:
        metrics.count("unknown_methods", kind=message.kind)
        logger.info("dock %s asks for %r, which we do not offer", message.sn, message.method)
        yield message.reply(_refused(message.method))


@on(Kind.EVENTS, ANY, data=Nothing)
def unknown_event(messages: Sequence[Message[Nothing]]) -> Iterator[Reply]:
    """Answered where the dock waits for it, so that it does not send the event for ever."""
    for message in messages:
        metrics.count("unknown_methods", kind=message.kind)
        if message.need_reply:
            yield message.reply(result(0))


def _refused(method: str) -> dict[str, Any]:
    return {"result": 1, "output": f"{method[:64]} is not offered"}
