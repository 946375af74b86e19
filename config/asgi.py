"""The console for daphne: pages over HTTP, live updates over websockets."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402  # Django has to be set up first
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from mqtt_bridge import garbage  # noqa: E402
from ota.consumers import RolloutConsumer, refuse_unknown  # noqa: E402

websockets = URLRouter(
    [
        path("ws/rollouts/<int:rollout_id>/", RolloutConsumer.as_asgi()),  # type: ignore[list-item, arg-type]
        re_path("", refuse_unknown),  # type: ignore[list-item, arg-type]
    ]
)
application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(websockets)),
    }
)
garbage.leave_startup()  # else all browsers wait for a tenth of a second now and then
