from django.apps import AppConfig
from django.db.backends.signals import connection_created


class MqttBridgeConfig(AppConfig):
    name = "mqtt_bridge"
    verbose_name = "Bridge"

    def ready(self) -> None:
        from mqtt_bridge import among, bulk  # noqa: F401 (among registers its lookup)

        connection_created.connect(bulk.prepare)
