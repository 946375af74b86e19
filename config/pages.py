"""The console's pages: only processes that show them load them."""

import sys

from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig


class Pages(SimpleAdminConfig):
    """Registers the pages where paths are asked for (``config.urls``), and for who checks them."""

    def ready(self) -> None:
        super().ready()
        if sys.argv[1:2] == ["check"]:
            admin.autodiscover()
