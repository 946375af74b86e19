"""What Django asks a database engine for, on PostgreSQL."""

import datetime as dt

from django.db.backends.postgresql import base
from psycopg.abc import Buffer
from psycopg.adapt import Loader


class _TimeLoader(Loader):
    """A ``timestamptz`` of a connection whose zone is UTC, as Django's are; read by C."""

    timezone = dt.UTC  # Django asks for it, and registers its own where another zone is wanted

    def load(self, data: Buffer) -> dt.datetime:
        return dt.datetime.fromisoformat(bytes(data).decode())


class DatabaseWrapper(base.DatabaseWrapper):
    def init_connection_state(self) -> None:
        """Has no question translated to machine code first, which takes 100 ms and saves none.

        Set here and not as an option of the connection, which poolers refuse.
        """
        super().init_connection_state()
        self.connection.adapters.register_loader("timestamptz", _TimeLoader)
        self.connection.execute("SET jit = off")
