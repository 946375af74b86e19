"""Measures what we claim: ``python -m benchmarks [topic …] [--small] [--json]``."""

import argparse
import importlib
import json
import sys
from types import ModuleType
from typing import Any

from rich.console import Console

from benchmarks import machine, page, results
from benchmarks.results import Size

TOPICS = (
    *("browsers", "command", "delivery", "history", "ingest"),
    *("launch", "pages", "tick", "upload"),
)
ALONE = ("soak",)  # takes an hour, and is measured only where it is named
KNOWN = (*TOPICS, *ALONE)


def main() -> None:
    arguments = _arguments()
    size = Size.SMALL if arguments.small else Size.FULL
    for topic in arguments.topics or TOPICS:
        module = importlib.import_module(f"benchmarks.{topic}")
        others = machine.watch()
        found = list(module.run(size))
        if arguments.json:
            sys.stdout.write(json.dumps([result._asdict() for result in found]) + "\n")
            continue
        Console().print(results.table(found))
        if size is Size.FULL:
            page.write(topic, _title(module), found, machine.name(), others())


def _title(module: ModuleType) -> str:
    """The first sentence of the module, without how it is called."""
    return str(module.__doc__).partition("\n\n")[0].rstrip(".").partition(": ``")[0] + "."


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic", help=", ".join(KNOWN))
    parser.add_argument("--small", action="store_true", help="a few seconds; nothing is written")
    parser.add_argument(
        "--json", action="store_true", help="results for scripts; nothing is written"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.topics) - set(KNOWN):
        parser.error(f"no topic: {', '.join(sorted(unknown))}; there are {', '.join(KNOWN)}")
    return arguments


if __name__ == "__main__":
    main()
