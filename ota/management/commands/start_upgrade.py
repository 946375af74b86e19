"""`start_upgrade`: previews or starts a rollout."""

import argparse
import logging
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError
from rich.console import RenderableType
from rich.table import Table

from fleet.models import Device, DeviceModel
from fleet.terminal import AnsweringCommand, firmware_version, not_as_asked, refuse_unknown, table
from ota import needs, rollouts, status
from ota.management.watching import summary, tasks_table, watch
from ota.models import Rollout
from ota.rollouts import NothingToUpgrade, Options, Plan
from ota.states import TaskStatus
from ota.tasks import advance

logger = logging.getLogger(__name__)

Document = dict[str, Any]


class Command(AnsweringCommand):
    help = "Starts a rollout, or shows what it would do."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        _add_devices(parser)
        _add_options(parser)
        parser.add_argument("--dry-run", action="store_true", help="only show what would happen")
        parser.add_argument("--wait", action="store_true", help="wait until all tasks have ended")
        parser.add_argument(
            "--timeout", type=_seconds, metavar="SECONDS", help="with --wait: how long at most"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        devices, chosen = _devices(options), _options(options)
        rollout, plan = _launch(devices, chosen, is_dry=options["dry_run"])
        document: Document = {
            "dry_run": options["dry_run"],
            "rollout_id": rollout.pk if rollout else None,
            **plan.as_json(),
        }
        if rollout and options["wait"]:
            self._wait(rollout, document, options)
            return
        self.answer(document, *_shown(document), as_json=options["json"])
        if rollout is None and not (options["dry_run"] and plan.tasks):
            not_as_asked("Nothing to upgrade.")

    def _wait(self, rollout: Rollout, document: Document, options: dict[str, Any]) -> None:
        if not options["json"]:
            self.answer(document, *_shown(document), as_json=False)
        is_over = self._watch(rollout, options)
        rollout.refresh_from_db()
        found = status.of_rollout(rollout)
        shown = (tasks_table(found["tasks"]), summary(found["counts"]))
        self.answer(document | {"status": found}, *shown, as_json=options["json"])
        if not is_over:
            not_as_asked(f"Not finished within {options['timeout']:g} s; the rollout goes on.")
        if found["counts"][TaskStatus.OK] != len(found["tasks"]):
            not_as_asked("Not all upgrades succeeded.")

    def _watch(self, rollout: Rollout, options: dict[str, Any]) -> bool:
        try:
            return watch(rollout, None if options["json"] else self.console, options["timeout"])
        except KeyboardInterrupt:
            self.stderr.write(f"No longer waiting; rollout {rollout.pk} goes on.")
            raise SystemExit(130) from None


def _add_devices(parser: CommandParser) -> None:
    devices = parser.add_mutually_exclusive_group(required=True)
    devices.add_argument("--sn", nargs="+", action="extend", help="these devices")
    devices.add_argument(
        "--model", metavar="KEY", action="append", help="all devices of a model, such as 3-2-0"
    )
    devices.add_argument("--all", action="store_true", help="all devices")


def _add_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--to", default="", metavar="VERSION", type=firmware_version,
        help="the version for all (default: the newest available one of each model)",
    )  # fmt: skip
    parser.add_argument("--name", default="", type=_name, help="what the rollout is called")
    parser.add_argument(
        "--limit-in-flight", type=_count, metavar="N", help="how many docks may upgrade at once"
    )
    parser.add_argument(
        "--allow-downgrade", action="store_true", help="also to versions older than the present one"
    )
    parser.add_argument(
        "--with-aircraft", action="store_true", help="also the aircraft of the chosen docks"
    )


def _devices(options: dict[str, Any]) -> QuerySet[Device]:
    devices = Device.objects.order_by("sn")
    if options["sn"]:
        devices = devices.filter(sn__in=options["sn"])
        refuse_unknown("serial number", options["sn"], devices.values_list("sn", flat=True))
    elif options["model"]:
        known = DeviceModel.objects.filter(key__in=options["model"])
        refuse_unknown("device model", options["model"], known.values_list("key", flat=True))
        devices = devices.filter(model__key__in=options["model"])
    return devices


def _options(options: dict[str, Any]) -> Options:
    if options["to"]:
        available = needs.Library().versions()
        refuse_unknown("version (no available package)", [options["to"]], available)
    return Options(
        name=options["name"],
        to=options["to"],
        limit_in_flight=options["limit_in_flight"],
        allow_downgrade=options["allow_downgrade"],
        with_aircraft=options["with_aircraft"],
    )


def _launch(
    devices: QuerySet[Device], chosen: Options, *, is_dry: bool
) -> tuple[Rollout | None, Plan]:
    """The rollout, if one was started, and what it does."""
    now = timezone.now()
    if is_dry:
        return None, rollouts.plan(devices, chosen, now)
    try:
        started = rollouts.launch(devices, chosen, now)
    except NothingToUpgrade:
        return None, rollouts.plan(devices, chosen, now)
    _wake_workers()
    return started


def _wake_workers() -> None:
    """Saves the second until the clock's next tick; without Redis that does it later."""
    try:
        advance.delay()
    except OperationalError as error:
        logger.warning("Redis does not answer, so the rollout starts later: %s", error)


def _shown(document: Document) -> list[RenderableType]:
    shown: list[RenderableType] = []
    if document["rollout_id"]:
        shown.append(f"Rollout {document['rollout_id']} was started.")
    if document["tasks"]:
        shown.append(_plan_table(document["tasks"]))
    if document["excluded"]:
        rows = [(each["sn"], each["text"]) for each in document["excluded"]]
        shown.append(table(["Left out", "Why"], rows))
    return shown


def _plan_table(tasks: list[Document]) -> Table:
    return table(
        ["Dock", "Device", "From", "To", "Type", "Waits for"],
        [
            (
                task["gateway_sn"],
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


def _name(text: str) -> str:
    longest = Rollout._meta.get_field("name").max_length or 0
    if len(text) > longest:
        raise argparse.ArgumentTypeError(f"longer than {longest} characters")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds
