"""What commands that start a rollout share: its choices, and how they show the plan."""

import argparse
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from rich.console import RenderableType
from rich.table import Table

from console.counts import count
from console.terminal import refuse_unknown, table
from ota import needs, rollouts
from ota.management.policy import add_policy, add_times, chosen
from ota.management.versions import firmware_version
from ota.models import Rollout
from ota.rollouts import FIELDS, Options, Plan

Document = dict[str, Any]

_CHOICES = ("name", "to", "allow_downgrade", "with_aircraft", "pilot", "starts_at", "deadline_at")


def add_launch(parser: CommandParser) -> None:
    """Adds the choices of a rollout; one that is not given is not among the options."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--to", default=absent, metavar="VERSION", type=_version,
        help="the version for all (default: the newest available one of each model)",
    )  # fmt: skip
    parser.add_argument("--name", default=absent, type=_name, help="what the rollout is called")
    parser.add_argument(
        "--allow-downgrade", action="store_true", default=absent,
        help="also to versions older than the present one",
    )  # fmt: skip
    parser.add_argument(
        "--pilot", nargs="+", action="extend", metavar="SN", default=absent,
        help="these docks, or docks of these aircraft, are the first wave",
    )  # fmt: skip
    add_policy(parser)
    add_times(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what would happen")


def chosen_options(options: dict[str, Any]) -> dict[str, Any]:
    """The choices that were made, as ``rollouts.Options`` names them."""
    if options.get("to"):
        available = needs.Library().versions()
        refuse_unknown("version (no available package)", [options["to"]], available)
    if not options.get("name"):  # it gets the one that is usual
        options = {key: value for key, value in options.items() if key != "name"}
    return chosen(options, _CHOICES) | {"policy": chosen(options, FIELDS)}


def would_be_refused(plan: Plan, chosen: Options, user: User | None) -> str:
    """What a dry run has to say of the start that it shows; empty if that would not be refused."""
    missing = rollouts.missing_author(plan, chosen, user)
    return f"Without --dry-run this would be refused. {missing}" if missing else ""


def plan_shown(document: Document) -> list[RenderableType]:
    """The waves, the tasks and what is left out, as far as there are any; first what the deadline cancels."""
    shown: list[RenderableType] = []
    if late := document["too_late"]:
        has = "has" if late == 1 else "have"
        shown.append(
            f"{count(late, 'dock')} {has} no hours before the deadline and would be canceled."
        )
    if len(document["waves"]) > 1:
        waves = [
            (wave["number"], wave["title"], f"{wave['docks']:,}") for wave in document["waves"]
        ]
        shown.append(table(["Wave", "Title", "Docks"], waves))
    if document["tasks"]:
        shown.append(_tasks(document["tasks"]))
    if document["excluded"]:
        rows = [(each["sn"], each["text"]) for each in document["excluded"]]
        shown.append(table(["Left out", "Why"], rows))
    return shown


def _tasks(tasks: list[Document]) -> Table:
    return table(
        ["Dock", "Wave", "Device", "From", "To", "Type", "Waits for"],
        [
            (
                task["gateway_sn"],
                task["wave"],
                target["sn"],
                target["from_version"],
                target["to_version"],
                target["upgrade_type"],
                "; ".join(reason["text"] for reason in task["waits_for"]),
            )
            for task in tasks
            for target in task["targets"]
        ],
    )


def _version(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the version is empty; without --to it is the newest")
    return firmware_version(text)


def _name(text: str) -> str:
    text = text.strip()
    longest = Rollout._meta.get_field("name").max_length or 0
    if len(text) > longest:
        raise argparse.ArgumentTypeError(f"longer than {longest} characters")
    return text
