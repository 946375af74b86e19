"""`add_organization`: makes an organization that docks can bind to."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser

from console.terminal import AnsweringCommand, table, wrong_call
from fleet.models import Organization


class Command(AnsweringCommand):
    help = "Makes an organization that docks can bind to, and prints its binding code."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("id", metavar="ID", help="what is typed in as organization id")
        parser.add_argument("name", metavar="NAME", help="what people call it")
        parser.add_argument("--code", help="binding code (default: a new random one)")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = Organization(identifier=options["id"], name=options["name"].strip())
        if options["code"] is not None:
            organization.binding_code = options["code"].strip()
        try:
            organization.full_clean()
        except ValidationError as error:
            wrong_call(_in_one_line(error))
        organization.save()
        document = {
            "id": organization.identifier,
            "name": organization.name,
            "binding_code": organization.binding_code,
        }
        shown = table(["Organization", "Name", "Binding code"], [tuple(document.values())])
        self.answer(document, shown, as_json=options["json"])


_ARGUMENTS = {"identifier": "ID", "name": "NAME", "binding_code": "--code"}


def _in_one_line(error: ValidationError) -> str:
    parts = [
        f"{_ARGUMENTS.get(field, field)}: {' '.join(messages)}"
        for field, messages in error.message_dict.items()
    ]
    return " ".join(parts)
