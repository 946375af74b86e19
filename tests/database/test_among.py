"""Rows by many keys or texts at once."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from database.among import Question
from fleet.models import Device
from tests.make import make_aircraft, make_dock

pytestmark = pytest.mark.django_db


def test_rows_are_found_by_their_keys() -> None:
    wanted, other = make_dock(), make_dock()
    assert set(Device.objects.filter(pk__among=[wanted.pk, 0, -1])) == {wanted}
    assert set(Device.objects.exclude(pk__among={wanted.pk})) == {other}


def test_rows_are_found_by_what_they_belong_to() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    assert list(Device.objects.filter(gateway__among={dock.pk: "any iterable"})) == [aircraft]


def test_no_keys_find_nothing() -> None:
    make_dock()
    assert not Device.objects.filter(pk__among=[]).exists()


def test_more_keys_than_a_statement_takes_placeholders(django_assert_num_queries: Any) -> None:
    dock = make_dock()
    with django_assert_num_queries(1):
        assert Device.objects.get(pk__among=range(dock.pk, dock.pk + 300_000)) == dock


def test_a_key_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Device.objects.filter(pk__among=["1); DROP TABLE"])


@pytest.mark.parametrize("callsigns", [["one"], ["?", 'a "quoted" word'], [], ["", "back\\slash"]])
def test_rows_are_found_by_their_texts(callsigns: list[str]) -> None:
    for callsign in ("one", "ONE", "?", 'a "quoted" word', "", "back\\slash", "NULL", "{a,b}"):
        make_dock(callsign=callsign)
    found = Device.objects.filter(callsign__among=callsigns).values_list("callsign", flat=True)
    assert sorted(found) == sorted(callsigns)
    question = Question(
        lambda texts: Device.objects.filter(callsign__among=texts).values_list("callsign")
    )
    assert question.rows(["one"]) == [("one",)]
    with CaptureQueriesContext(connection) as queries:
        assert sorted(question.rows(callsigns)) == sorted((text,) for text in callsigns)
    assert len(queries) <= 1
