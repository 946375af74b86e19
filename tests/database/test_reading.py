"""Objects and their times come from the database as Django's own would; on both databases."""

import copy
import datetime as dt
import pickle

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from database import reading
from fleet.models import Device
from ota.models import UpgradeTask
from tests.make import make_dock, make_task

pytestmark = pytest.mark.django_db

NOW = dt.datetime(2026, 3, 4, 5, 6, 7, 890123, dt.UTC)


@pytest.mark.parametrize("at", [NOW, NOW.replace(microsecond=0), NOW.replace(year=1999)])
def test_a_time_is_read_as_it_was_written(at: dt.datetime) -> None:
    dock = make_dock(last_seen_at=at)

    found = Device.objects.get(pk=dock.pk).last_seen_at

    assert found == at
    assert found.tzinfo is dt.UTC


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-04 05:06:07.890123", NOW),
        ("2026-03-04T05:06:07.890123", NOW),
        ("2026-03-04 05:06:07.890123+00:00", NOW),
        ("2026-03-04 06:06:07.890123+01:00", NOW),
        ("2026-3-4 05:06:07.890123", NOW),
    ],
)
def test_a_time_that_somebody_else_has_written_is_read_too(text: str, at: dt.datetime) -> None:
    dock = make_dock()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE fleet_device SET last_seen_at = %s", [text])

    assert Device.objects.get(pk=dock.pk).last_seen_at == at


def test_an_object_that_was_read_has_all_its_fields_and_is_no_new_one() -> None:
    dock = make_dock(callsign="Säntis")

    found = Device.objects.get(pk=dock.pk)

    assert {f.attname for f in Device._meta.concrete_fields} <= found.__dict__.keys()
    assert (found, found.callsign) == (dock, "Säntis")
    assert (found._state.adding, found._state.db) == (False, "default")


def test_an_object_that_was_read_is_saved_over_its_row() -> None:
    found = Device.objects.get(pk=make_dock().pk)
    found.callsign = "Rigi"

    found.save()

    assert list(Device.objects.values_list("callsign", flat=True)) == ["Rigi"]


def test_what_was_left_out_is_read_once_it_is_asked_for() -> None:
    make_dock(callsign="Säntis")
    found = Device.objects.only("sn").get()

    with CaptureQueriesContext(
        connection,
    ) as asked:
        said = [found.callsign, found.callsign]

    assert (said, len(asked)) == (["Säntis", "Säntis"], 1)


def test_what_objects_refer_to_comes_along_and_is_not_shared_between_them() -> None:
    tasks = [make_task(), make_task()]

    first, second = UpgradeTask.objects.select_related("gateway").order_by("pk")

    with CaptureQueriesContext(connection) as asked:
        assert [first.gateway, second.gateway] == [task.gateway for task in tasks]
    assert not asked.captured_queries
    assert first.gateway != second.gateway


def test_a_new_key_takes_the_place_of_the_object_that_was_read() -> None:
    first, second = make_task(), make_task()
    found = UpgradeTask.objects.select_related("gateway").get(pk=first.pk)

    found.gateway_id = second.gateway_id

    assert found.gateway == second.gateway


def test_an_object_that_was_read_can_be_copied_and_pickled() -> None:
    dock = make_dock(callsign="Säntis")
    found = Device.objects.get(pk=dock.pk)

    for other in (copy.copy(found), pickle.loads(pickle.dumps(found))):  # noqa: S301 (our own)
        assert (other, other.callsign, other._state.adding) == (dock, "Säntis", False)


def test_objects_are_given_what_their_keys_refer_to_without_a_question_more() -> None:
    docks = [make_dock(), make_dock()]
    for dock in docks:
        make_task(dock)
    found = list(UpgradeTask.objects.order_by("pk"))

    reading.attach(found, gateway={dock.pk: dock for dock in docks})

    with CaptureQueriesContext(connection) as asked:
        assert [task.gateway for task in found] == docks
    assert not asked.captured_queries


def test_what_is_gone_by_then_is_missed_when_it_is_asked_for() -> None:
    found = list(UpgradeTask.objects.filter(pk=make_task().pk))

    reading.attach(found, gateway={})

    with pytest.raises(Device.DoesNotExist):
        _ = found[0].gateway


def test_a_key_that_is_empty_refers_to_nothing() -> None:
    found = list(Device.objects.filter(pk=make_dock(organization=None).pk))

    reading.attach(found, organization={})

    assert found[0].organization is None
