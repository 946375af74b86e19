"""Searching the list of devices: by parts of words, at the cost of what is found and not of the fleet."""

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Q
from django.test import Client

from fleet.models import Device
from tests.make import make_dock
from tests.people import log_in, text

pytestmark = pytest.mark.django_db

LIST = "/admin/fleet/device/"
migration = import_module("fleet.migrations.0003_seen_and_search")


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "Operators")
    make_dock(sn="7CTDMQQ77X", callsign="Dock North 1")
    make_dock(sn="7CTDM00001", callsign="Dock South 1")
    return client


def indexes() -> set[str]:
    with connection.cursor() as cursor:
        return set(connection.introspection.get_constraints(cursor, Device._meta.db_table))


def is_postgres() -> bool:
    return connection.vendor == "postgresql"


@pytest.mark.parametrize("word", ["QQ77", "qq77", "orth 1", "dock north"])
def test_a_part_of_a_word_finds_the_device_whatever_its_case(operator: Client, word: str) -> None:
    page = text(operator.get(LIST, {"q": word}))
    assert "Dock North 1" in page
    assert "Dock South 1" not in page


def test_postgresql_looks_for_a_part_of_a_word_in_an_index() -> None:
    found = Device.objects.filter(Q(sn__icontains="QQ77") | Q(callsign__icontains="QQ77"))
    if is_postgres():
        with connection.cursor() as cursor:
            # What is better for few devices.
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
    assert ("device_search" in found.explain()) is is_postgres()


def test_where_postgresql_gives_us_no_extension_a_search_reads_all_devices(
    operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.cursor() as cursor:
        if is_postgres():
            cursor.execute("DROP EXTENSION pg_trgm CASCADE")
            cursor.execute("CREATE ROLE only_reads")
            cursor.execute("SET LOCAL ROLE only_reads")
        migration.index_searches(apps, connection.SchemaEditorClass(connection))
        if is_postgres():
            cursor.execute("RESET ROLE")
    assert "device_search" not in indexes()
    assert ("docs/deploy.md says how" in caplog.text) is is_postgres()
    assert "Dock North 1" in text(operator.get(LIST, {"q": "QQ77"}))


def test_an_extension_in_a_schema_that_we_do_not_see_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As some managed servers keep them."""
    if is_postgres():
        with connection.cursor() as cursor:
            cursor.execute("DROP EXTENSION pg_trgm CASCADE")
            cursor.execute("CREATE SCHEMA elsewhere")
            cursor.execute("CREATE EXTENSION pg_trgm SCHEMA elsewhere")
    migration.index_searches(apps, connection.SchemaEditorClass(connection))
    assert "device_search" not in indexes()
    assert ("docs/deploy.md says how" in caplog.text) is is_postgres()


def test_the_index_can_be_taken_away_and_made_again() -> None:
    editor = connection.SchemaEditorClass(connection)
    migration.forget_searches(apps, editor)
    assert "device_search" not in indexes()
    migration.index_searches(apps, editor)
    assert ("device_search" in indexes()) is is_postgres()
