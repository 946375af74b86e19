"""What becomes of a batch: transactions, halves, and what fails on the way."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import DataError, OperationalError, connection

from fleet import telemetry
from fleet.models import Device
from mqtt_bridge import envelope as envelopes
from mqtt_bridge import pipeline, router
from mqtt_bridge.envelope import Reply
from mqtt_bridge.models import FailedMessage
from mqtt_bridge.pipeline import Read
from tests.make import envelope, make_dock, received
from tests.routes import Also


def osd(sn: str) -> Read:
    return received(f"thing/product/{sn}/osd", envelope({"mode_code": 4}))


def charge(sn: str, percent: int) -> Read:
    data = {"drone_charge_state": {"capacity_percent": percent}}
    return received(f"thing/product/{sn}/osd", envelope(data))


@pytest.mark.django_db
def test_one_message_that_the_database_refuses_harms_only_itself(
    also: Also,
) -> None:
    make_dock(sn="GOOD1")

    def refuse_one(messages: Any) -> tuple[()]:
        if any(message.sn == "BAD1" for message in messages):
            raise DataError("value too long; device_binding_code is 'S3CRET'")
        return ()

    also(refuse_one)
    pipeline.process([osd("GOOD1"), osd("BAD1")])
    assert Device.objects.get(sn="GOOD1").mode_code == 4
    failed = FailedMessage.objects.get()
    assert (failed.topic, "DataError" in failed.reason) == ("thing/product/BAD1/osd", True)
    assert failed.tid


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages went into each transaction."""
    router.discover()
    sizes: list[int] = []
    work = pipeline._bring_in

    def note(batch: Sequence[Read]) -> list[Reply]:
        sizes.append(len(batch))
        return work(batch)

    monkeypatch.setattr(pipeline, "_bring_in", note)
    return sizes


@pytest.mark.django_db
@pytest.mark.parametrize("key", [b"\xff", b"a\xc3"], ids=repr)
def test_a_key_that_is_no_text_costs_no_message_a_second_transaction(
    key: bytes, batches: list[int]
) -> None:
    docks = [make_dock(mode_code=4) for _ in range(5)]
    bad = b'{"need_reply":1,"method":"hms","data":{"' + key + b'":1,"mode_code":0}}'
    batch = [received(f"thing/product/{docks[0].sn}/{kind}", bad) for kind in ("state", "events")]
    batch += [osd(dock.sn) for dock in docks[1:]]
    replies = pipeline.process(batch)
    assert batches == [5, 1]  # the state comes last
    assert [reply.data for reply in replies] == [{"result": 0}]
    assert Device.objects.get(pk=docks[0].pk).mode_code == 0
    assert not FailedMessage.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "place", [(telemetry, "_remember"), (pipeline, "_count")], ids=["memory", "count"]
)
def test_what_fails_after_the_commit_is_logged_and_brings_no_batch_in_again(
    place: tuple[Any, str],
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(*place, fail)
    pipeline.process([osd(make_dock().sn), osd(make_dock().sn)])
    assert batches == [2]
    assert not FailedMessage.objects.exists()
    assert "a fault of ours" in caplog.text


@pytest.mark.django_db
def test_a_database_that_is_away_keeps_the_batch_waiting(
    also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dock(sn="GOOD1")
    outages = [OperationalError("database is locked")] * 3

    def away(messages: Any) -> tuple[()]:
        if outages:
            raise outages.pop()
        return ()

    also(away)
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's transaction lives in it
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    pipeline.process([osd("GOOD1")], give_up=wait)
    assert len(pauses) == 3
    assert Device.objects.get(sn="GOOD1").mode_code == 4
    assert not FailedMessage.objects.exists()


@pytest.mark.django_db
def test_a_bridge_that_is_told_to_end_while_the_database_is_away_gives_up(
    also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(messages: Any) -> tuple[()]:
        raise OperationalError("connection refused")

    also(away)
    monkeypatch.setattr(connection, "close", lambda: None)
    with pytest.raises(pipeline.Stopped):
        pipeline.process([osd("GOOD1")], give_up=lambda _: True)


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_a_large_batch_goes_over_two_connections_and_each_device_keeps_its_order(
    also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WORTH_TWO", 40)
    handled: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)

    def note(messages: Any) -> tuple[()]:
        for message in messages:
            percent = message.data.drone_charge_state.capacity_percent
            handled[message.sn].append((threading.get_ident(), percent))
        return ()

    also(note)
    sns = [make_dock(sn=f"D{number}").sn for number in range(21)]
    said = [(sn, percent) for percent in range(10) for sn in sns]
    pipeline.process([charge(sn, percent) for sn, percent in said])
    pipeline.close()
    percents = {sn: [percent for _, percent in found] for sn, found in handled.items()}
    assert percents == {sn: [*range(10)] for sn in sns}
    threads = [{thread for thread, _ in found} for found in handled.values()]
    assert all(len(found) == 1 for found in threads)
    assert len(set.union(*threads)) == (1 if connection.vendor == "sqlite" else 2)
    assert set(Device.objects.values_list("battery_percent", flat=True)) == {9}


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_topologies_are_committed_before_anything_else_of_their_batch(
    batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WORTH_TWO", 4)
    data = {"domain": "3", "type": 2, "sub_devices": []}
    batch = [osd(f"D{number}") for number in range(20)]
    for number in (3, 7):
        topology = envelope(data, "update_topo")
        batch.insert(number, received(f"sys/product/D{number}/status", topology))
    pipeline.process(batch)
    pipeline.close()
    assert (batches[0], sum(batches)) == (2, 22)
    assert len(batches) == (2 if connection.vendor == "sqlite" else 3)


@pytest.mark.everywhere
@pytest.mark.django_db(transaction=True)
def test_of_a_large_batch_nothing_is_said_to_be_done_if_one_half_has_to_give_up(
    also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WORTH_TWO", 2)

    def away(messages: Any) -> tuple[()]:
        if any(message.sn == "D3" for message in messages):
            raise OperationalError("connection refused")
        return ()

    also(away)
    for number in range(20):
        make_dock(sn=f"D{number}")
    batch = [osd(f"D{number}") for number in range(20)]
    with pytest.raises(pipeline.Stopped):
        pipeline.process(batch, give_up=lambda _: True)
    pipeline.close()


@pytest.mark.django_db
def test_a_message_on_which_our_reading_fails_harms_only_itself_and_is_kept(
    also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dock(sn="GOOD1")
    good, work = osd("GOOD1"), envelopes.read

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(envelopes, "read", fail)
    bad = osd("BAD1")
    monkeypatch.setattr(envelopes, "read", work)
    pipeline.process([good, bad])
    assert Device.objects.get(sn="GOOD1").mode_code == 4
    failed = FailedMessage.objects.get()
    assert (failed.topic, failed.reason) == (
        "thing/product/BAD1/osd",
        "RuntimeError: a fault of ours",
    )


@pytest.mark.parametrize(
    ("state", "is_outage"),
    [(None, True), ("08006", True), ("57P03", True), ("40P01", True), ("54000", False)],
)
def test_an_outage_is_told_from_a_value_that_is_refused(state: str | None, is_outage: bool) -> None:
    error = OperationalError("…")
    error.__cause__ = type("Cause", (Exception,), {"sqlstate": state})()
    assert pipeline.is_outage(error) is is_outage


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("state", "words"),
    [("40P01", "messages are brought in again"), ("57P03", "the database does not answer")],
    ids=["deadlock", "outage"],
)
def test_why_a_batch_has_to_be_brought_in_again_is_told(
    state: str,
    words: str,
    also: Also,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cause = type("Cause", (Exception,), {"sqlstate": state})
    failures = [cause()]

    def fail_once(messages: Any) -> tuple[()]:
        if failures:
            raise OperationalError("as the database says") from failures.pop()
        return ()

    also(fail_once)
    monkeypatch.setattr(connection, "close", lambda: None)
    pipeline.process([osd("GOOD1")], give_up=lambda _: False)
    assert [record.message for record in caplog.records if words in record.message]


def test_bad_values_are_no_outage() -> None:
    assert not pipeline.is_outage(DataError("…"))
