"""Commands on their way to the broker: what it confirmed, and what goes out once and never again."""

import atexit
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_django import Settings

from demo import ports
from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from mqtt_bridge.errors import BrokerUnavailable
from tests.cable import Cable
from tests.flows.ear import Ear
from tests.processes import Processes, eventually
from tests.servers import Server, program

pytestmark = pytest.mark.services

TOPIC = "thing/product/7CTDM1/services"


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    """The connection belongs to the process and would outlive its broker."""
    yield
    publisher.close()


def message(number: int, size: int = 0) -> tuple[str, bytes]:
    return TOPIC, json.dumps({"tid": str(number), "x": "x" * size}).encode()


def publish(messages: Sequence[tuple[str, bytes]]) -> list[Outcome]:
    publisher.connect()
    return publisher.publish(messages)


def heard(ear: Ear) -> list[int]:
    """The numbers of what came so far."""
    return [int(one.tid) for one in ear.all("services")]


def test_commands_arrive_once_each_in_their_order(mosquitto: Server, settings: Settings) -> None:
    with Ear(mosquitto.url) as ear:
        ear.listen(TOPIC)
        for version, first in (("3.1.1", 0), ("5", 250)):
            settings.MQTT_VERSION = version
            sent = [message(number, 1000) for number in range(first, first + 250)]
            assert publish(sent) == [Outcome.CONFIRMED] * 250
            publisher.close()
        eventually(lambda: len(heard(ear)) >= 500, "all commands")
        assert heard(ear) == [*range(500)]


def test_a_broker_of_mqtt_5_gets_no_more_at_once_than_it_takes_and_tells_what_it_refuses(
    processes: Processes, settings: Settings, tmp_path: Path
) -> None:
    rules, config, port = tmp_path / "rules", tmp_path / "few.conf", ports.free()
    rules.write_text(f"topic {TOPIC}\n")
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"max_inflight_messages 3\nacl_file {rules}\n"
    )
    command = [program("mosquitto", "mosquitto"), "-v", "-c", str(config)]
    processes.start("few", command, lambda broker: "running" in broker.output)
    settings.MQTT_URL, settings.MQTT_VERSION = f"mqtt://127.0.0.1:{port}", "5"
    sent = [message(number) for number in range(20)]
    forbidden = ("thing/product/7CTDM2/services", b"{}")
    found = publish([*sent, forbidden, message(20)])
    assert found == [Outcome.CONFIRMED] * 20 + [Outcome.REFUSED, Outcome.CONFIRMED]


def test_a_command_whose_acknowledgement_was_lost_is_not_sent_again(
    mosquitto: Server, settings: Settings
) -> None:
    with Ear(mosquitto.url) as ear, Cable(mosquitto.port) as cable, ThreadPoolExecutor(1) as aside:
        ear.listen(TOPIC)
        settings.MQTT_URL = cable.url.replace("http:", "mqtt:")
        assert publish([message(1)]) == [Outcome.CONFIRMED]
        cable.is_one_way = True
        sending = aside.submit(publish, [message(2)])
        eventually(lambda: 2 in heard(ear), "the command")
        cable.is_one_way = False
        cable.cut()
        assert sending.result() == [Outcome.DOUBTFUL]
        assert publish([message(3)]) == [Outcome.CONFIRMED]
        eventually(lambda: 3 in heard(ear), "what was sent afterwards")
        assert heard(ear) == [1, 2, 3]


def test_without_a_connection_nothing_waits_for_one_and_goes_out_late(mosquitto: Server) -> None:
    with pytest.raises(BrokerUnavailable):
        publisher.publish([message(1)])


def test_connections_that_fail_leave_nothing_behind_in_the_process(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONNECT_TIME", 0.01)
    settings.MQTT_URL = f"mqtt://127.0.0.1:{ports.free()}"
    before = atexit._ncallbacks()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            publisher.connect()
    assert atexit._ncallbacks() == before


def test_what_could_not_go_out_in_its_time_does_not_go_out_later(
    mosquitto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the worker stood still in the middle of a chunk."""
    with Ear(mosquitto.url) as ear:
        ear.listen(TOPIC)
        with monkeypatch.context() as at_once:
            at_once.setattr(publisher, "PROMPT", 0)
            assert publish([message(1), message(2)]) == [Outcome.UNSENT] * 2
        assert publish([message(3)]) == [Outcome.CONFIRMED]
        eventually(lambda: heard(ear), "what was sent afterwards")
        assert heard(ear) == [3]
