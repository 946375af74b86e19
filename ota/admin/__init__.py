"""The console's pages of firmware; Django finds them here."""

from ota.admin import devices, foreign, packages, rollouts, upgrades

__all__ = ["devices", "foreign", "packages", "rollouts", "upgrades"]
