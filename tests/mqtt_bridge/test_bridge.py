"""The bridge over a real broker: what is lost when something dies, and what is not."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device
from mqtt_bridge import bridge as bridges
from mqtt_bridge import pipeline
from mqtt_bridge.bridge import Bridge
from mqtt_bridge.envelope import Reply
from mqtt_bridge.models import BridgeSession
from mqtt_bridge.pipeline import Read
from ota.models import TaskEvent
from ota.states import TaskStatus
from tests.docks import Wire
from tests.make import (
    NEW,
    envelope,
    make_organization,
    make_task,
    progress,
)
from tests.mqtt_bridge.conftest import running_bridge
from tests.processes import Processes, eventually
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
    ("said", "most"),
    [(["state"], 4000), (["osd", "osd", "state"], 2), (["osd"], 4000)],
    ids=["a state", "a state behind a full batch", "telemetry alone"],
)
def test_what_waited_in_the_bridge_while_the_database_was_away_is_not_heard_yet(
    said: list[str],
    most: int,
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
        assert since
        assert since < later - dt.timedelta(seconds=30)
    finally:
        may_go_on.release(10)


def test_what_docks_say_is_known_up_to_the_last_word_of_a_broker_that_hangs(
    bridge: Bridge, mosquitto: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridges, "QUIET", 0.2)
    behind = BridgeSession.objects.exclude(behind_since=None)
    os.kill(mosquitto.pid, signal.SIGSTOP)
    try:
        hangs_since = timezone.now()
        eventually(behind.exists, "the word of it")
        heard = BridgeSession.objects.heard(timezone.now())
        assert heard
        assert heard.until < hangs_since
    finally:
        os.kill(mosquitto.pid, signal.SIGCONT)
    monkeypatch.setattr(bridges, "QUIET", 60)
    wire.say("thing/product/D1/state", envelope({"firmware_version": NEW}))
    eventually(lambda: not behind.exists(), "the end of it")


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
