"""Who uses the console in tests: one of each group, and what they are told."""

import importlib
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext


def make_person(group: str, password: str | None = None) -> User:
    """Somebody in a group, such as ``Operators``."""
    user = User.objects.filter(username=group.lower()).first()
    user = user or User.objects.create_user(group.lower(), password=password, is_staff=True)
    if not Group.objects.filter(name=group).exists():  # a test that emptied the database ran before
        migration = importlib.import_module("ota.migrations.0002_groups")
        migration.add(apps, connection.schema_editor())
    user.groups.add(Group.objects.get(name=group))
    return user


def log_in(client: Client, group: str) -> User:
    """Logs somebody in who is in a group."""
    user = make_person(group)
    client.force_login(user)
    return user


def staff(*codenames: str) -> Client:
    """A browser of somebody with just these permissions."""
    user = User.objects.create_user("-".join(codenames) or "nobody", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def queries(client: Client, url: str) -> int:
    """What a page costs once everything that a process keeps is kept."""
    client.get(url)  # what is cached from here on does not count
    with CaptureQueriesContext(connection) as found:
        assert client.get(url).status_code == 200
    return len(found)


def context(client: Client, url: str) -> dict[str, Any]:
    """What a page was rendered with."""
    return client.get(url).context_data or {}


def told(response: Any) -> str:
    """The messages that the next page will show."""
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def text(response: Any) -> str:
    """The page without its line breaks, so that sentences can be found in it."""
    return " ".join(response.content.decode().split())
