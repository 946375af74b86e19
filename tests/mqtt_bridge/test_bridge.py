"""The bridge over a real broker: what is lost when something dies, and what is not."""

import datetime as dt
import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import DataError, OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from fleet import telemetry
from fleet.models import Device
from mqtt_bridge import bridge as bridges
from mqtt_bridge import envelope as envelopes
from mqtt_bridge import pipeline, router
from mqtt_bridge.bridge import Bridge
from mqtt_bridge.envelope import Reply
from mqtt_bridge.models import BridgeSession, FailedMessage
from mqtt_bridge.pipeline import Read
from ota.models import TaskEvent
from ota.states import TaskStatus
from tests.docks import Wire
from tests.make import (
    NEW,
    envelope,
    make_dock,
    make_organization,
    make_task,
    progress,
    received,
)
from tests.mqtt_bridge.conftest import running_bridge
from tests.processes import Processes, eventually
from tests.routes import Also
from tests.servers import Server

pytestmark = pytest.mark.services


def history(task_pk: int) -> int:
    return TaskEvent.objects.filter(task=task_pk, kind="progress").count()


def test_what_arrives_while_the_bridge_is_down_is_brought_in_when_it_is_back(
    processes: Processes, wire: Wire
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    bridge = processes.bridge()
    bridge.kill9()
    for percent in range(30):
        message = envelope(progress(percent=percent), "ota_progress", bid=task.bid)
        wire.say(f"thing/product/{task.gateway.sn}/events", message)
    assert history(task.pk) == 0
    bridge.start()
    eventually(lambda: history(task.pk) == 30, "the messages that the broker kept")


def test_a_bridge_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    processes: Processes, wire: Wire
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    bridge = processes.bridge()
    topic = f"thing/product/{task.gateway.sn}/events"
    for number in range(600):
        message = envelope(progress(percent=number % 100), "ota_progress", bid=task.bid)
        wire.say(topic, message)
        if number in {200, 400}:
            bridge.kill9()
            bridge.start(wait=False)
    eventually(lambda: history(task.pk) >= 600, "all messages")
    assert history(task.pk) == 600


def test_the_bridge_waits_for_a_broker_that_is_not_there_yet_and_says_so_once(
    processes: Processes, mosquitto: Server
) -> None:
    mosquitto.stop()
    bridge = processes.bridge(wait=False)
    bridge.wait_for_line("waiting for")
    mosquitto.start()
    bridge.wait_for_line("connected to")
    assert bridge.output.count("waiting for") == 1


def test_the_bridge_comes_back_after_an_outage_of_the_broker(
    bridge: Bridge, wire: Wire, mosquitto: Server
) -> None:
    mosquitto.stop()
    eventually(lambda: not bridge.is_connected, "the loss")
    mosquitto.start()
    eventually(lambda: bridge.is_connected, "the connection")
    with Wire(mosquitto.url) as again:
        reply = again.ask("thing/product/D1/requests", envelope(None, "offline_map_get"))
    assert reply["data"] == {"result": 0}


def test_a_bridge_that_is_started_twice_waits_until_the_first_has_ended(
    processes: Processes,
) -> None:
    first = processes.bridge()
    eventually(lambda: BridgeSession.objects.listening_since(timezone.now()), "its sign of life")
    second = processes.bridge(wait=False)
    second.wait_for_line("waiting: another bridge runs as")
    assert "lost the connection" not in first.output
    first.kill9()
    second.wait_for_line("connected to")


def test_sigterm_ends_the_bridge_within_ten_seconds(processes: Processes) -> None:
    assert processes.bridge().terminate(10) == 0
    assert BridgeSession.objects.listening_since(timezone.now()) is None


def test_asked_for_json_the_bridge_tells_at_its_end_what_it_did(
    processes: Processes, wire: Wire
) -> None:
    command = [sys.executable, "manage.py", "mqtt_bridge", "--json"]
    bridge = processes.start("bridge", command, lambda p: "connected to" in p.output)
    wire.say("thing/product/D1/state", envelope({"firmware_version": NEW}))
    eventually(Device.objects.filter(sn="D1").exists, "the device")
    bridge.terminate(10)
    assert json.loads(bridge.output.splitlines()[-1]) == {"messages": 1, "batches": 1}


def test_a_listening_bridge_says_so_in_the_database(bridge: Bridge) -> None:
    eventually(lambda: BridgeSession.objects.listening_since(timezone.now()), "the sign of life")


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_was_set_changes_nothing_about_how_long_a_bridge_has_been_connected(
    bridge: Bridge, hours: int
) -> None:
    eventually(lambda: BridgeSession.objects.listening_since(timezone.now()), "the sign of life")
    hour = dt.timedelta(hours=1)
    with time_machine.travel(timezone.now() + hours * hour, tick=True):
        now = timezone.now()
        beaten = BridgeSession.objects.filter(seen_at__range=(now - hour, now + hour))
        eventually(beaten.exists, "a sign of life by the new time")
        connected_since = BridgeSession.objects.get().connected_since
        assert connected_since
        assert now - hour < connected_since < timezone.now()


def test_a_bridge_that_is_behind_says_since_when(
    processes: Processes, wire: Wire, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.bridge().kill9()
    for number in range(1200):
        wire.say(f"thing/product/D{number % 5}/state", envelope({"firmware_version": NEW}))
    published, may_go_on, work = timezone.now(), threading.Event(), pipeline.process

    def wait_with_many(batch: Sequence[Read], **how: Any) -> list[Reply]:
        if len(batch) >= 500:
            may_go_on.wait()
        return work(batch, **how)

    monkeypatch.setattr(pipeline, "process", wait_with_many)
    settings.MQTT_CLIENT_ID = processes.environment["MQTT_CLIENT_ID"]
    with running_bridge():
        try:
            eventually(lambda: BridgeSession.objects.exclude(behind_since=None), "the word of it")
            behind_since = BridgeSession.objects.get().behind_since
        finally:
            may_go_on.set()
        assert behind_since
        assert behind_since > published
        eventually(lambda: BridgeSession.objects.filter(behind_since=None), "the end of it")


@pytest.mark.parametrize(
    ("said", "most", "is_behind"),
    [(["state"], 4000, True), (["osd", "osd", "state"], 2, True), (["osd"], 4000, False)],
    ids=["what counts", "what counts, behind a full batch", "telemetry alone"],
)
def test_what_waited_in_the_bridge_while_the_database_was_away_is_not_heard_yet(
    said: list[str],
    most: int,
    is_behind: bool,
    bridge: Bridge,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_go_on, work = threading.Semaphore(0), threading.Semaphore(0), pipeline.process

    def wait_first(batch: Sequence[Read], **how: Any) -> list[Reply]:
        begun.release()
        may_go_on.acquire()
        return work(batch, **how)

    monkeypatch.setattr(pipeline, "process", wait_first)
    monkeypatch.setattr(bridges, "MOST_AT_ONCE", most)
    try:
        wire.say("thing/product/D1/state", envelope({"firmware_version": NEW}))
        begun.acquire()
        for number, kind in enumerate(said):
            wire.say(f"thing/product/D1/{kind}", envelope({"mode_code": number}))
        arrived = bridge._listener._waiting
        eventually(lambda: len(arrived) == len(said), "what waits in memory")
        later = timezone.now() + dt.timedelta(seconds=40)
        with time_machine.travel(later, tick=True):
            may_go_on.release()
            begun.acquire()
            since = BridgeSession.objects.get().behind_since
        assert (since is not None and since < later - dt.timedelta(seconds=30)) is is_behind
    finally:
        may_go_on.release(10)


def test_over_mqtt_5_the_session_is_kept_too(processes: Processes, wire: Wire) -> None:
    bridge = processes.bridge(MQTT_VERSION="5")
    bridge.kill9()
    wire.say("thing/product/D1/state", envelope({"firmware_version": NEW}))
    bridge.start()
    eventually(Device.objects.filter(sn="D1", firmware_version=NEW).exists, "the kept message")


def test_bridges_of_a_shared_group_bring_each_message_in_once(
    processes: Processes, wire: Wire
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    for name in ("one", "two"):
        processes.bridge(MQTT_SHARED_GROUP="fleet", MQTT_CLIENT_ID=f"{name}-{task.bid}")
    start = int(timezone.now().timestamp() * 1000) - 1000
    for percent in range(100):
        fields = {"bid": task.bid, "timestamp": start + percent}
        message = envelope(progress(percent=percent), "ota_progress", **fields)
        wire.say(f"thing/product/{task.gateway.sn}/events", message)
    eventually(lambda: history(task.pk) == 100, "all messages")
    task.refresh_from_db()
    assert task.percent == 99


def test_a_bridge_that_only_listens_answers_nobody(
    settings: Settings, bridge: Bridge, wire: Wire
) -> None:
    settings.MQTT_ANSWER_REQUESTS = False
    topology = envelope({"domain": "3", "type": 2, "sub_devices": []}, "update_topo")
    wire.say("sys/product/D1/status", topology)
    organization = make_organization()
    binding = {"sn": "D1", "organization_id": organization.identifier}
    binding |= {"device_binding_code": organization.binding_code}
    bind = envelope({"bind_devices": [binding]}, "airport_organization_bind")
    wire.say("thing/product/D1/requests", bind)
    wire.say("thing/product/D1/events", envelope({}, "hms", need_reply=1))
    eventually(Device.objects.filter(sn="D1").exists, "the device")
    # Answers keep their order: what should not have been said would come before this one.
    settings.MQTT_ANSWER_REQUESTS = True
    asked = envelope({}, "hms", need_reply=1)
    wire.say("thing/product/D1/events", asked)
    assert wire.answers(until=asked["tid"]) == ["thing/product/D1/events_reply"]
    assert not Device.objects.exclude(organization=None).exists()


def test_a_wrong_password_is_named_once_and_never_shown(
    processes: Processes, tmp_path: Path
) -> None:
    password, port = tmp_path / "passwords", processes.web_port
    subprocess.run(
        ["/usr/bin/mosquitto_passwd", "-b", "-c", str(password), "fleet", "right"], check=True
    )
    password.chmod(0o644)
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {password}\nuser root\n"
    )
    processes.start(
        "broker", ["/usr/sbin/mosquitto", "-v", "-c", str(config)], lambda p: "running" in p.output
    )
    wrong = processes.bridge(MQTT_URL=f"mqtt://fleet:hunter2@127.0.0.1:{port}", wait=False)
    wrong.wait_for_line("refused by mqtt://127.0.0.1")
    assert "hunter2" not in wrong.output
    processes.bridge(MQTT_URL=f"mqtt://fleet:right@127.0.0.1:{port}", MQTT_CLIENT_ID="right")


# The pipeline alone.


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
    assert batches == [6]
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
