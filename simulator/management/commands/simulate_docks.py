"""`simulate_docks`: runs simulated docks against a broker until it is told to stop."""

import argparse
import asyncio
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from simulator import faults
from simulator.fleet import Fleet, Options, plan
from simulator.link import Broker
from simulator.memory import Memory
from simulator.specs import DockSpec

WRONG_CALL = 2


class Command(BaseCommand):
    help = (
        "Run simulated docks that onboard, report, and upgrade themselves when told to. "
        "SIGUSR1 ends passing faults at once; SIGUSR2 makes all upgrades fail, until it comes again."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--docks", type=int, required=True, help="how many docks")
        parser.add_argument(
            "--first", type=int, default=1, help="number of the first one; for a second process"
        )
        parser.add_argument(
            "--fault",
            action="append",
            default=[],
            metavar="NAME=K",
            type=_counted,
            help=_fault_help(),
        )
        parser.add_argument("--speed", type=_positive, default=1.0, help="divides simulated waits")
        parser.add_argument("--organization", default="", help="organization id to bind to")
        parser.add_argument(
            "--code",
            default=os.environ.get("SIMULATOR_CODE", ""),
            help="its binding code; SIMULATOR_CODE keeps it out of the list of processes",
        )
        parser.add_argument(
            "--mqtt", help="broker, mqtt://user:password@host:1883; default MQTT_URL"
        )
        parser.add_argument("--state", type=Path, help="JSON file that keeps the docks' firmware")
        parser.add_argument(
            "--from-version", action="append", default=[], metavar="SERIES=VERSION", type=_named,
            help="version with which devices of a series start, as DOCK2=10.01.3205",
        )  # fmt: skip
        parser.add_argument(
            "--clear-after", type=_not_negative, default=300.0, metavar="SECONDS",
            help="real seconds until passing faults end; 0: never",
        )  # fmt: skip
        parser.add_argument(
            "--osd", type=_positive, metavar="SECONDS",
            help="real seconds between two rounds of osd; default 2 of simulated time",
        )  # fmt: skip
        parser.add_argument(
            "--patience", type=_positive, default=10.0, metavar="SECONDS",
            help="real seconds for which a dock waits for an answer, default 10",
        )  # fmt: skip
        parser.add_argument(
            "--rate", type=int, metavar="BYTES", help="bytes per second of each dock"
        )
        parser.add_argument(
            "--json", action="store_true", help="print the counts as JSON at the end"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            specs, fleet_options, memory = _prepare(options)
        except ValueError as error:
            raise CommandError(str(error), returncode=WRONG_CALL) from error
        _allow_many_sockets()
        # With --json standard output holds the document and nothing else.
        stream = self.stderr if options["json"] else self.stdout
        summary = asyncio.run(self._run(specs, fleet_options, memory, stream))
        if options["json"]:
            self.stdout.write(msgspec.json.encode(summary).decode())

    async def _run(
        self, specs: tuple[DockSpec, ...], options: Options, memory: Memory, stream: OutputWrapper
    ) -> dict[str, Any]:
        fleet = Fleet(specs, options, memory)
        running = asyncio.create_task(fleet.run())
        announcing = asyncio.create_task(self._announce(fleet, stream))
        _on_signals(running.cancel, signal.SIGINT, signal.SIGTERM)
        _on_signals(fleet.moments.clear, signal.SIGUSR1)
        _on_signals(fleet.moments.turn, signal.SIGUSR2)
        with suppress(asyncio.CancelledError):
            await running
        announcing.cancel()
        return asdict(fleet.summary())

    async def _announce(self, fleet: Fleet, stream: OutputWrapper) -> None:
        await fleet.online.wait()
        stream.write(f"{len(fleet.specs):,} docks online")
        stream.flush()


def _prepare(options: dict[str, Any]) -> tuple[tuple[DockSpec, ...], Options, Memory]:
    specs = plan(
        options["docks"],
        dict(options["fault"]),
        from_versions=dict(options["from_version"]),
        first=options["first"],
    )
    if bool(options["organization"]) != bool(options["code"]):
        raise ValueError("--organization and --code belong together.")
    if options["rate"] is not None and options["rate"] < 1:
        raise ValueError("--rate must be at least 1 byte per second.")
    url = options["mqtt"] or getattr(settings, "MQTT_URL", "")
    fleet_options = Options(
        Broker.from_url(url),
        speed=options["speed"],
        organization=options["organization"],
        code=options["code"],
        clear_after=options["clear_after"],
        rate=options["rate"],
        osd=options["osd"],
        reply_timeout=options["patience"],
    )
    return specs, fleet_options, Memory(options["state"])


def _named(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not in the form NAME=VALUE")
    return name, value


def _counted(text: str) -> tuple[str, int]:
    name, value = _named(text)
    try:
        return name, int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} in {text!r} is no number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _not_negative(text: str) -> float:
    number = _number(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _fault_help() -> str:
    known = "; ".join(f"{name}: {fault.summary}" for name, fault in faults.FAULTS.items())
    return f"K docks with this fault ({known})".replace("%", "%%")


def _on_signals(act: Callable[[], object], *numbers: int) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, act)


def _allow_many_sockets() -> None:
    # Each dock holds a connection to the broker and, while it downloads, one to the file server.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
