"""The peer of ``benchmarks.browsers``: a consumer that sends each update on, as most write it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from benchmarks.watching import GROUP


class EachConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        await self.send_json({"type": "page"})

    async def update(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "changes", "tasks": [event["task"]]})


application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": URLRouter([path("each/", EachConsumer.as_asgi())]),  # type: ignore[list-item, arg-type]
    }
)
