from django.apps import AppConfig
from django.db.backends.signals import connection_created


class MqttBridgeConfig(AppConfig):
    name = "mqtt_bridge"
    verbose_name = "Bridge"

    def ready(self) -> None:
        from mqtt_bridge import among, bulk, within  # noqa: F401 (two register their lookups)

        connection_created.connect(bulk.prepare)
