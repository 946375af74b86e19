"""PostgreSQL's times, read by C. Imported with the first connection: on SQLite nobody needs the driver."""

import datetime as dt

from psycopg.abc import Buffer
from psycopg.adapt import Loader


class TimeLoader(Loader):
    """A ``timestamptz`` of a connection whose zone is UTC, as Django's are."""

    timezone = dt.UTC  # Django asks for it, and registers its own where another zone is wanted

    def load(self, data: Buffer) -> dt.datetime:
        return dt.datetime.fromisoformat(bytes(data).decode())
