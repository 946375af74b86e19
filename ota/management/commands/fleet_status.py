"""`fleet_status`: what each device runs, needs and waits for."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from rich.table import Table

from console.terminal import AnsweringCommand, refuse_unknown, table
from fleet.models import Device
from ota import needs, status


class Command(AnsweringCommand):
    help = "Shows what each device runs, what it needs and what blocks an upgrade now."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--sn", nargs="+", action="extend", default=[], help="only these devices"
        )
        parser.add_argument(
            "--need", choices=[str(need) for need in needs.Need], help="only devices with this need"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        devices = Device.objects.order_by("sn")
        if options["sn"]:
            devices = devices.filter(sn__in=options["sn"])
            refuse_unknown("serial number", options["sn"], devices.values_list("sn", flat=True))
        now = timezone.now()
        answers = needs.assess(devices, now)
        documents = [
            status.of_device(answer, now)
            for answer in answers
            if options["need"] in {None, str(answer.need)}
        ]
        shown = _table(documents) if documents else "No devices."
        self.answer(documents, shown, as_json=options["json"])


def _table(documents: list[status.Document]) -> Table:
    return table(
        [
            "Device",
            "Model",
            "Dock",
            "Organization",
            "Online",
            "Version",
            "Need",
            "Target",
            "Blockers",
        ],
        [
            (
                each["sn"],
                each["model"],
                each["gateway_sn"],
                each["organization"],
                each["online"],
                each["firmware_version"],
                each["need"],
                each["target_version"],
                "; ".join(reason["text"] for reason in each["blockers"]),
            )
            for each in documents
        ],
    )
