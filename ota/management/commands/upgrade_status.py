"""`upgrade_status`: how the tasks of a rollout stand."""

from typing import Any

from django.core.management.base import CommandParser
from rich.text import Text

from fleet.terminal import AnsweringCommand, visible, wrong_call
from ota import status
from ota.management.watching import summary, tasks_table, watch
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
        rollout = _find(options["rollout"])
        if options["watch"]:
            watch(rollout, None if options["json"] else self.console)
            rollout = _find(rollout.pk)
        document = status.of_rollout(rollout)
        title = Text(f"Rollout {rollout.pk}, {visible(rollout.name)}: {rollout.status}")
        if reason := document["pause_reason"]:
            title.append(visible(f", {reason}"))
        shown = (title, tasks_table(document["tasks"]), summary(document["counts"]))
        self.answer(document, *shown, as_json=options["json"])


def _find(pk: int) -> Rollout:
    rollout = Rollout.objects.filter(pk=pk).first()
    return rollout or wrong_call(f"Unknown rollout: {pk}")
