"""`start_upgrade`: previews or starts a rollout."""

import argparse
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from django.db.models import QuerySet
from django.utils import timezone
from rich.console import RenderableType

from console.terminal import AnsweringCommand, not_as_asked, refuse_unknown, wrong_call
from fleet.models import Device, DeviceModel
from ota import rollouts, status
from ota.management.launching import add_launch, chosen_options, plan_shown, would_be_refused
from ota.management.people import add_user, person, remark_of
from ota.management.policy import refuse
from ota.management.waking import wake_workers
from ota.management.watching import held_back, summary, tasks_table, watch
from ota.models import Criterion, Rollout
from ota.rollouts import InvalidPolicy, NothingToUpgrade, Options, Plan
from ota.states import TaskStatus

Document = dict[str, Any]


class Command(AnsweringCommand):
    help = "Starts a rollout, or shows what it would do."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        _add_devices(parser)
        add_launch(parser)
        add_user(parser)
        parser.add_argument("--wait", action="store_true", help="wait until all tasks have ended")
        parser.add_argument(
            "--timeout", type=_seconds, metavar="SECONDS", help="with --wait: how long at most"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["timeout"] is not None and not options["wait"]:
            wrong_call("--timeout says how long to wait at most: give --wait too.")
        user = person(options["user"])
        devices = _devices(options)
        chosen = Options(**chosen_options(options), criteria=_criteria(options))
        rollout, plan = _launch(devices, chosen, user, is_dry=options["dry_run"])
        document: Document = {
            "dry_run": options["dry_run"],
            "rollout_id": rollout.pk if rollout else None,
            **plan.as_json(),
        }
        if rollout:
            self.done = _became(document)
        elif refused := would_be_refused(plan, chosen, user):
            self.stderr.write(refused)
        if rollout and options["wait"]:
            self._wait(rollout, document, options)
            return
        self.answer(document, *_shown(document), as_json=options["json"])
        if rollout is None and not (options["dry_run"] and plan.tasks):
            not_as_asked("Nothing to upgrade.")

    def _wait(self, rollout: Rollout, document: Document, options: dict[str, Any]) -> None:
        if not options["json"]:
            self.answer(document, *_shown(document), as_json=False)
        console = None if options["json"] else self.console
        try:
            is_over = watch(rollout, console, options["timeout"], tell=self.stderr.write)
            rollout.refresh_from_db()
            found = status.of_rollout(rollout)
        except (DatabaseError, InterfaceError):
            if options["json"]:  # people have seen it already
                self.answer(document, as_json=True)
            raise
        shown = (tasks_table(found["tasks"]), summary(found["counts"]))
        self.answer(document | {"status": found}, *shown, as_json=options["json"])
        if not is_over:
            why = f"it {held}" if (held := held_back(rollout)) else "the rollout goes on."
            not_as_asked(f"Not finished within {options['timeout']:g} s; {why}")
        if not are_proven(rollout):
            not_as_asked("Not all upgrades succeeded.")


def are_proven(rollout: Rollout) -> bool:
    """Whether all upgrades succeeded; what failed and was retried is judged by its retry."""
    return not rollout.tasks.not_retried().exclude(status=TaskStatus.OK).exists()


def _add_devices(parser: CommandParser) -> None:
    devices = parser.add_mutually_exclusive_group(required=True)
    devices.add_argument("--sn", nargs="+", action="extend", help="these devices")
    devices.add_argument(
        "--model",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="all devices of a model, such as 3-2-0",
    )
    devices.add_argument("--all", action="store_true", help="all devices")
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


def _criteria(options: dict[str, Any]) -> list[Criterion]:
    """What the devices are chosen by; none where they are named one by one."""
    if options["sn"]:
        return []
    models = DeviceModel.objects.filter(key__in=options["model"] or [])
    return [Criterion(model=model) for model in models] or [Criterion()]


def _launch(
    devices: QuerySet[Device], chosen: Options, user: User | None, *, is_dry: bool
) -> tuple[Rollout | None, Plan]:
    """The rollout, if one was started, and what it does."""
    now = timezone.now()
    try:
        if is_dry:
            return None, rollouts.plan(devices, chosen, now)
        started = rollouts.launch(devices, chosen, now, user, remark=remark_of(user))
    except NothingToUpgrade:
        return None, rollouts.plan(devices, chosen, now)
    except InvalidPolicy as error:
        refuse(error)
    wake_workers()
    return started


def _shown(document: Document) -> list[RenderableType]:
    shown: list[RenderableType] = []
    if document["rollout_id"]:
        shown.append(_became(document))
    if document["needs_approval"]:
        shown.append("Nothing is sent before somebody else than its author has approved it.")
    return [*shown, *plan_shown(document)]


def _became(document: Document) -> str:
    done = "needs approval" if document["needs_approval"] else "was started"
    return f"Rollout {document['rollout_id']} {done}."


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds
