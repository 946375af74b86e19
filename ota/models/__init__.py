"""Packages, rollouts and upgrade tasks."""

from ota.models.downloads import Download
from ota.models.packages import FirmwarePackage, PackageEvent, ProductCode, Upload
from ota.models.rollouts import Rollout
from ota.models.upgrades import ForeignUpgrade, TaskEvent, UpgradeTarget, UpgradeTask

__all__ = [
    "Download",
    "FirmwarePackage",
    "ForeignUpgrade",
    "PackageEvent",
    "ProductCode",
    "Rollout",
    "TaskEvent",
    "UpgradeTarget",
    "UpgradeTask",
    "Upload",
]
