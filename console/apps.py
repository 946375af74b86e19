"""Lets Django find the templates."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "console"
