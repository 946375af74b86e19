"""Packages, rollouts and upgrade tasks."""

from ota.models.packages import FirmwarePackage, ProductCode
from ota.models.rollouts import Rollout
from ota.models.upgrades import ForeignUpgrade, TaskEvent, UpgradeTarget, UpgradeTask

__all__ = [
    "FirmwarePackage",
    "ForeignUpgrade",
    "ProductCode",
    "Rollout",
    "TaskEvent",
    "UpgradeTarget",
    "UpgradeTask",
]
