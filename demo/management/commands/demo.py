"""`demo`: everything on this machine, with simulated docks."""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from rich.console import Console
from rich.table import Table

from config.env import without_password
from demo import data, environment, ports, services
from demo.supervisor import Supervisor


class Command(BaseCommand):
    help = (
        "Runs everything on this machine: console, bridge, workers, an embedded Redis and MQTT "
        "broker, and simulated docks. Set DATABASE_URL, REDIS_URL or MQTT_URL to use a server of your own."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        default = environment.DEFAULT_PORT
        parser.add_argument(
            "--port", type=_port, default=default,
            help=f"of the console; firmware is served on the next one (default {default})",
        )  # fmt: skip
        parser.add_argument("--docks", type=_count, default=12, help="simulated docks (default 12)")
        parser.add_argument("--no-docks", action="store_true", help="simulate none")
        parser.add_argument(
            "--speed",
            type=_positive,
            default=10.0,
            help="of the simulated docks (default 10 x real)",
        )
        parser.add_argument(
            "--package-size", type=_count, default=20, metavar="MB",
            help="of each made-up package (default 20)",
        )  # fmt: skip
        parser.add_argument("--folder", default="var", help="where the data is kept (default var)")
        parser.add_argument(
            "--patience", type=_positive, default=120.0, metavar="SECONDS",
            help="until every part must answer (default 120)",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="print the table as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        _on_end_signals(_leave)
        # With --json standard output holds the document and nothing else.
        self._console = Console(stderr=options["json"], highlight=False)
        _refuse_taken(options["port"])
        folder = environment.data_folder(options["folder"])
        try:
            with environment.alone_in(folder):
                self._run(folder, options)
        except environment.FolderInUseError as error:
            raise CommandError(str(error)) from error

    def _run(self, folder: Path, options: dict[str, Any]) -> None:
        docks = self._prepare(folder, options)
        logs = folder / "log"
        logs.mkdir(exist_ok=True)
        embedded = os.environ.get(environment.EMBEDDED, "").split()
        try:
            parts = services.all_parts(folder, options["port"], embedded, docks)
        except services.NoServerError as error:
            raise CommandError(str(error)) from error
        supervisor = Supervisor(parts, logs, self._say)
        _on_end_signals(supervisor.stop)
        self._supervise(supervisor, options)

    def _supervise(self, supervisor: Supervisor, options: dict[str, Any]) -> None:
        self._say("Starting ...")
        try:
            if supervisor.start(options["patience"]):
                self._show(supervisor, options)
                folder = environment.data_folder(options["folder"])
                self._say(f"Commands: {_command(folder, 'fleet_status')}")
                self._say(
                    f"Console: {_address(options)}   Logs: {supervisor.log_folder}   Ctrl-C ends it."
                )
                supervisor.run()
            elif not supervisor.is_stopped:
                self._show(supervisor, options)
                raise CommandError(_what_is_wrong(supervisor))
        finally:
            self._say("Ending ...")
            supervisor.end()

    def _prepare(self, folder: Path, options: dict[str, Any]) -> services.Docks | None:
        """The database and what it holds from the start; returns the docks to simulate."""
        self._say("Preparing the database and the packages ...")
        try:
            data.migrate()
            self._tell_password(data.make_operator(), folder)
            organization = data.organization()
            data.fill_library(folder, options["package_size"] * 1_000_000)
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}".splitlines()[0]) from error
        connection.close()
        if options["no_docks"]:
            return None
        return services.Docks(
            options["docks"], options["speed"], organization.identifier, organization.binding_code
        )

    def _tell_password(self, password: str | None, folder: Path) -> None:
        if password:
            self._say(f"Log in as {data.USER_NAME} with the password {password} (shown only now)")
            return
        command = _command(folder, f"changepassword {data.USER_NAME}")
        self._say(f"Log in as {data.USER_NAME}; for a new password: {command}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _show(self, supervisor: Supervisor, options: dict[str, Any]) -> None:
        rows = [_database_row(), *_rows(supervisor)]
        if options["json"]:
            self.stdout.write(json.dumps({"url": _address(options), "parts": rows}))
            self.stdout.flush()
            return
        table = Table("Part", "Address", "State")
        for row in rows:
            table.add_row(row["part"], row["address"], row["state"])
        self._console.print(table)


def _command(folder: Path, words: str) -> str:
    """What to type in the project's folder, so that another command talks to this demo."""
    file = shlex.quote(str(folder / environment.FOR_SHELLS))
    return f". {file}; {shlex.quote(sys.executable)} manage.py {words}"


def _address(options: dict[str, Any]) -> str:
    return f"http://{ports.HOST}:{options['port']}/"


def _rows(supervisor: Supervisor) -> list[dict[str, Any]]:
    return [
        {
            "part": child.part.name,
            "address": child.part.address,
            "state": child.state,
            "pid": child.pid,
            "log": str(child.log) if child.pid else None,
        }
        for child in supervisor.children
    ]


def _database_row() -> dict[str, Any]:
    address = without_password(os.environ.get("DATABASE_URL", ""))
    if connection.vendor == "sqlite":
        address = str(settings.DATABASES["default"]["NAME"])
    return {"part": "database", "address": address, "state": "answers", "pid": None, "log": None}


def _what_is_wrong(supervisor: Supervisor) -> str:
    child = supervisor.silent()[0]
    if not child.pid:
        return f"{child.part.name} does not answer at {child.part.address}"
    return f"{child.part.name} does not answer: {child.last_words()} (see {child.log})"


def _refuse_taken(port: int) -> None:
    for taken in (port, port + 1):
        if not ports.is_free(taken):
            raise CommandError(
                f"Port {taken} is taken; the demo needs {port} and {port + 1}. Choose others with --port."
            )


def _on_end_signals(handler: Callable[..., object]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Under nohup the end of the terminal is not ours.
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, handler)


def _leave(*_: object) -> NoReturn:
    """Ends quietly while nothing has been started yet."""
    raise SystemExit(130)


def _port(text: str) -> int:
    if (port := ports.console(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65534")
    return port


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return number
