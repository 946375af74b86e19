"""Values arrive as they were, whatever is in them; on both databases."""

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from database import bulk
from ota.models import TaskEvent
from tests.make import make_task

pytestmark = pytest.mark.django_db

NOW = dt.datetime(2026, 3, 4, 5, 6, 7, 890123, dt.UTC)
TEXTS = [
    "",
    "NULL",
    "{a,b}",
    'a "quoted" word',
    "back\\slash",
    "two\nlines",
    "%s",
    "'; --",
    "é 机场",
]


def rows(texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    task = make_task()
    common = {"task_id": task.pk, "at": NOW, "kind": "progress", "percent": None} | fields
    return [common | {"key": uuid.uuid4().hex, "text": text} for text in texts]


def insert_new(rows: list[dict[str, Any]]) -> set[Any]:
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ("key",))}
    return bulk.insert_new(TaskEvent, columns, "key")


def test_texts_come_back_as_they_were() -> None:
    insert_new(rows(TEXTS))
    assert list(TaskEvent.objects.order_by("pk").values_list("text", flat=True)) == TEXTS


def test_what_rows_do_not_name_has_its_default() -> None:
    insert_new(rows(["one", "two"]))
    event = TaskEvent.objects.earliest("pk")
    assert (event.at, event.percent, event.actor) == (NOW, None, None)
    assert (event.is_late, event.tid) == (False, "")


def test_only_new_rows_are_told_and_others_stay_as_they_are() -> None:
    first, second, third = rows(["first", "second", "third"])
    assert insert_new([first, second]) == {first["key"], second["key"]}
    again = [second | {"text": "changed"}, third]
    assert insert_new(again) == {third["key"]}
    assert insert_new([first, second]) == set()
    texts = TaskEvent.objects.order_by("pk").values_list("text", flat=True)
    assert list(texts) == ["first", "second", "third"]


@pytest.mark.parametrize("microsecond", [0, 1, 120_000])
@pytest.mark.parametrize("zone", [dt.UTC, dt.timezone(dt.timedelta(hours=8))])
def test_times_and_keys_are_stored_as_django_stores_them(
    microsecond: int, zone: dt.timezone
) -> None:
    at = NOW.replace(microsecond=microsecond).astimezone(zone)
    (row,) = rows(["ours"], at=at, reported_at=None)
    insert_new([row])
    TaskEvent.objects.create(**row | {"text": "Django's", "key": uuid.uuid4()})
    raw = "SELECT at, reported_at, length(CAST(key AS text)) FROM ota_taskevent"
    with connection.cursor() as cursor:
        cursor.execute(raw)
        ours, djangos = cursor.fetchall()
    assert ours == djangos
    assert TaskEvent.objects.get(key=row["key"]).at == at


def test_nothing_costs_nothing() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert insert_new([]) == set()
        bulk.update(TaskEvent, ("text",), {})
        bulk.update(TaskEvent, ("text",), {}, "t.text = ''")
        bulk.update(TaskEvent, ("text",), {1: {"text": None}})
    assert not queries


def test_an_update_sets_what_a_row_names_and_nothing_else() -> None:
    insert_new(rows(["one", "two"], percent=5))
    one, two = TaskEvent.objects.order_by("pk")
    changes: dict[int, dict[str, Any]] = {
        one.pk: {"text": 'a "new", {text}'},
        two.pk: {"percent": 7, "reported_at": NOW},
    }
    bulk.update(TaskEvent, ("text", "percent", "reported_at", "step"), changes)
    found = TaskEvent.objects.order_by("pk").values_list("text", "percent", "reported_at")
    assert list(found) == [('a "new", {text}', 5, None), ("two", 7, NOW)]


@pytest.mark.parametrize("number", [1, 40, 500])
def test_each_of_many_rows_gets_its_own_values(number: int) -> None:
    """Also where not all of them go out at once."""
    texts = [f"text {n}" for n in range(number)]
    assert len(insert_new(rows(texts))) == number
    events = list(TaskEvent.objects.order_by("pk"))
    assert [event.text for event in events] == texts
    bulk.update(
        TaskEvent, ("percent", "step"), {e.pk: {"percent": n} for n, e in enumerate(events)}
    )
    percents = TaskEvent.objects.order_by("pk").values_list("percent", flat=True)
    assert list(percents) == list(range(number))


def test_a_guard_over_values_that_no_row_names_still_holds() -> None:
    insert_new(rows(["one"], percent=5))
    pk = TaskEvent.objects.get().pk
    bulk.update(TaskEvent, ("text", "step"), {pk: {"text": "new"}}, "v.step IS NOT NULL")
    assert TaskEvent.objects.get().text == "one"


def test_no_connection_has_postgresql_translate_questions_to_machine_code() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SHOW jit")
            assert cursor.fetchone() == ("off",)
