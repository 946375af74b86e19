"""What stands in for the broker where only the command itself is looked at."""

import json
from typing import Any

from django.utils import timezone

from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from ota.models import UpgradeTask
from ota.upgrades import issue


class Broker:
    """Takes what is published instead of a broker; the wire itself is tested with a real one."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.is_away = False
        self.outcome = Outcome.CONFIRMED

    def connect(self) -> None:
        if self.is_away:
            raise BrokerUnavailable("no connection to mqtt://broker")

    def publish(self, messages: Any) -> list[Outcome]:
        self.commands += [(topic, json.loads(payload)) for topic, payload in messages]
        return [self.outcome] * len(messages)


def tick() -> None:
    now = timezone.now()
    issue.look_again(now)
    issue.issue(issue.due(now), now)


def status(task: UpgradeTask) -> str:
    task.refresh_from_db()
    return task.status
