"""`upgrade_status`: how the tasks of a rollout stand."""

from typing import Any

from django.core.management.base import CommandParser
from rich.console import RenderableType

from console.terminal import AnsweringCommand
from ota import status
from ota.management.watching import find, summary, tasks_table, title, watch, waves_table
from ota.models import Rollout


class Command(AnsweringCommand):
    help = "Shows how each task of a rollout stands."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("rollout", metavar="ROLLOUT", type=int, help="its number")
        parser.add_argument(
            "--watch", action="store_true", help="follow it until all tasks have ended"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        rollout = find(options["rollout"])
        if options["watch"]:
            watch(rollout, None if options["json"] else self.console, tell=self.stderr.write)
            rollout = find(rollout.pk)
        document = status.of_rollout(rollout)
        self.answer(document, *_shown(rollout, document), as_json=options["json"])


def _shown(rollout: Rollout, document: status.Document) -> list[RenderableType]:
    shown: list[RenderableType] = [title(rollout)]
    if len(document["waves"]) > 1:
        shown.append(waves_table(document["waves"]))
    return [*shown, tasks_table(document["tasks"]), summary(document["counts"])]
