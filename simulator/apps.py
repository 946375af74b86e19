"""Lets Django find the command `simulate_docks`."""

from django.apps import AppConfig


class SimulatorConfig(AppConfig):
    name = "simulator"
    verbose_name = "Dock simulator"
