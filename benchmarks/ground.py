"""What benchmarks stand on: Django, empty databases, servers and processes of their own.

Import it first: it sets Django up, which models need before they are imported.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from benchmarks.results import Size
from config import env
from tests import servers


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, which the user ``postgres`` may enter too; packages are kept in it."""
    with tempfile.TemporaryDirectory(prefix="fleet-ota-") as name:
        path = Path(name)
        path.chmod(0o755)
        storage = env.storage("", f"file://{path}/media", path)
        with override_settings(STORAGES=settings.STORAGES | {"default": storage}):
            yield path


@contextmanager
def databases(path: Path, size: Size, config: str = "") -> Iterator[dict[str, str]]:
    """The addresses of an empty SQLite and, in full size, of an empty PostgreSQL, by name.

    ``config``: lines for PostgreSQL's configuration.
    """
    found = {"SQLite": f"sqlite:///{path}/fleet.sqlite3"}
    if size is Size.SMALL:
        yield found
        connections.close_all()
        return
    (path / "postgres").mkdir()
    server = servers.postgres(path / "postgres")
    with (path / "postgres" / "data" / "postgresql.conf").open("a") as file:
        file.write(config)
    server.start()
    try:
        yield found | {"PostgreSQL": server.url}
    finally:
        connections.close_all()
        server.end()


def use(url: str) -> None:
    """Opens the database of this address from now on, with all tables."""
    os.environ["DATABASE_URL"] = url
    connections.close_all()
    del connections["default"]
    connections.settings["default"] = env.database("DATABASE_URL", "", Path())
    connections.settings = connections.configure_settings(connections.settings)
    call_command("migrate", verbosity=0)
