"""The console's pages of firmware; Django finds them here."""

from ota.admin import codes, devices, foreign, packages, rollouts, upgrades

__all__ = ["codes", "devices", "foreign", "packages", "rollouts", "upgrades"]
