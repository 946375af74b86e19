"""Listens to the docks until it is told to end."""

import json
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from mqtt_bridge import garbage
from mqtt_bridge.bridge import Bridge


class Command(BaseCommand):
    help = "Brings what docks say over MQTT into the database, and answers. Runs until SIGTERM."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="tell at the end what was done")

    def handle(self, *args: Any, **options: Any) -> None:
        bridge = Bridge()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, bridge.stop)
        garbage.leave_startup()
        bridge.run()
        if options["json"]:
            self.stdout.write(json.dumps({"messages": bridge.messages, "batches": bridge.batches}))
