"""The console's pages of firmware; Django finds them here."""

from ota.admin import (
    codes,
    devices,
    foreign,
    notices,
    packages,
    policies,
    rollouts,
    upgrades,
    webhooks,
)

__all__ = [
    "codes",
    "devices",
    "foreign",
    "notices",
    "packages",
    "policies",
    "rollouts",
    "upgrades",
    "webhooks",
]
