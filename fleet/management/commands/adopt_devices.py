"""`adopt_devices`: claims devices that speak but were never bound."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from console.terminal import AnsweringCommand, not_as_asked, refuse_unknown, table
from fleet import binding
from fleet.models import Device, Organization


class Command(AnsweringCommand):
    help = "Claims devices that speak but were never bound; a dock brings its aircraft."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--organization", metavar="ID", required=True, help="who gets them")
        parser.add_argument(
            "--sn", nargs="+", action="extend", required=True, help="serial numbers"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        named = Organization.objects.filter(identifier=options["organization"])
        known = named.values_list("identifier", flat=True)
        refuse_unknown("organization", [options["organization"]], known)
        organization = named.get()
        devices = Device.objects.filter(sn__in=options["sn"])
        refuse_unknown("serial number", options["sn"], devices.values_list("sn", flat=True))
        adopted = binding.adopt(devices, organization, timezone.now())
        document = {
            "organization": organization.identifier,
            "adopted": sorted(device.sn for device in adopted),
            "left_out": _left_out(options["sn"], {device.sn for device in adopted}, organization),
        }
        self._tell(document, as_json=options["json"])

    def _tell(self, document: dict[str, Any], *, as_json: bool) -> None:
        rows = [(sn, "adopted") for sn in document["adopted"]]
        rows += [(left_out["sn"], left_out["text"]) for left_out in document["left_out"]]
        self.answer(document, table(["Device", "Outcome"], rows), as_json=as_json)
        lost = [each["sn"] for each in document["left_out"] if each["code"] != "bound_already"]
        if lost:
            not_as_asked(f"Not adopted: {', '.join(lost)}")


def _left_out(
    named: Sequence[str], adopted: set[str], organization: Organization
) -> list[dict[str, str]]:
    others = Device.objects.filter(sn__in=set(named) - adopted).select_related("organization")
    return [{"sn": device.sn, **_reason(device, organization)} for device in others.order_by("sn")]


def _reason(device: Device, organization: Organization) -> dict[str, str]:
    if device.organization_id == organization.pk:
        return {"code": "bound_already", "text": "it belongs to this organization already"}
    return {
        "code": "other_organization",
        "text": f"it belongs to another organization, {device.organization}",
    }
