"""No page of the console asks the database more often because there are more rows."""

import re

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from benchmarks import filling, pages
from benchmarks.filling import Amounts

pytestmark = [pytest.mark.django_db, pytest.mark.postgres_alone]

# Both have more tasks than their list leads through, and more than one page of everything else.
FEW, MANY = Amounts(1600, 12_000, 3), Amounts(3200, 24_000, 3)

# Their like is among the others.
ALIKE = re.compile("by column|need [rcnud]|rollout, [iuposrvfct]|search: (part|begin|nothing)")


def costs(client: Client, amounts: Amounts) -> dict[str, int]:
    """The queries of each page in a database with so many rows, which are gone afterwards."""
    with transaction.atomic():
        filling.make(amounts)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # PostgreSQL's own would wait for the end of the transaction
        found = {
            name: queries(client, url)
            for name, url in pages.addresses().items()
            if not ALIKE.search(name)
        }
        transaction.set_rollback(True)
    return found


def queries(client: Client, url: str) -> int:
    cache.clear()  # what pages remember for seconds would depend on how fast the machine is
    with CaptureQueriesContext(connection) as found:
        assert client.get(url).status_code == 200, url
    return len(found)


def test_no_page_takes_more_queries_with_more_rows(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    ContentType.objects.get_for_models(*apps.get_models())  # a process asks for them once
    few = costs(client, FEW)
    assert costs(client, MANY) == few
    assert max(few.values()) <= 35
