"""Packages, rollouts and upgrade tasks."""

from ota.models.clocks import Clock
from ota.models.downloads import Download
from ota.models.folded import FoldedReports
from ota.models.notices import News, Notice, Preference, Webhook, WebhookDelivery
from ota.models.packages import FirmwarePackage, PackageEvent, ProductCode, Upload
from ota.models.policies import OrganizationPolicy, Policy
from ota.models.rollouts import Criterion, Offer, Rollout, RolloutEvent, Wave
from ota.models.upgrades import ForeignUpgrade, TaskEvent, UpgradeTarget, UpgradeTask

__all__ = [
    "Clock",
    "Criterion",
    "Download",
    "FirmwarePackage",
    "FoldedReports",
    "ForeignUpgrade",
    "News",
    "Notice",
    "Offer",
    "OrganizationPolicy",
    "PackageEvent",
    "Policy",
    "Preference",
    "ProductCode",
    "Rollout",
    "RolloutEvent",
    "TaskEvent",
    "UpgradeTarget",
    "UpgradeTask",
    "Upload",
    "Wave",
    "Webhook",
    "WebhookDelivery",
]
