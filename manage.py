#!/usr/bin/env python
"""Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line

from demo import environment

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if sys.argv[1:2] == ["demo"]:
        # Only the demo fills gaps in the environment, and only before the settings are read.
        environment.complete(sys.argv[2:])
    execute_from_command_line(sys.argv)
