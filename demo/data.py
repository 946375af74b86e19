"""What the demo's database holds from the start: tables, an operator, an organization, packages."""

import secrets
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command

from demo import library
from fleet.models import Organization

USER_NAME = "admin"
ORGANIZATION = "demo"


def migrate() -> None:
    call_command("migrate", verbosity=0, interactive=False)


def make_operator() -> str | None:
    """The new operator's password; None where there is one already."""
    users = get_user_model()._default_manager
    if users.filter(username=USER_NAME).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(USER_NAME, password=password)
    return password


def organization() -> Organization:
    """Whom the simulated docks belong to."""
    return Organization.objects.get_or_create(identifier=ORGANIZATION, defaults={"name": "Demo"})[0]


def fill_library(scratch: Path, size: int) -> int:
    return library.fill(scratch, size)
