"""Small parts: time, memory, the broker's address, ending tasks."""

import asyncio
from pathlib import Path

import pytest

from simulator.clock import SHORTEST_PERIOD, Clock
from simulator.ending import end
from simulator.link import Broker
from simulator.memory import Memory, Remembered


def test_speed_shortens_waits_but_not_below_the_shortest_period() -> None:
    assert Clock(20).real(60) == 3
    assert Clock(2).period(2) == 1
    assert Clock(1000).period(2) == SHORTEST_PERIOD


@pytest.mark.parametrize("speed", [0, -1])
def test_time_cannot_stand_still(speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Clock(speed)


def test_memory_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    memory = Memory(path)
    memory.remember("A1", "10.01.3206", 0)
    memory.save()
    assert Memory(path).recall("A1") == Remembered("10.01.3206", 0)
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_a_memory_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder"):
        Memory(tmp_path / "missing" / "state.json")


def test_a_file_that_is_no_memory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"A1": 3}')
    with pytest.raises(ValueError, match=r"state\.json is not a state file"):
        Memory(path)


def test_an_address_is_taken_apart_and_keeps_its_password_to_itself() -> None:
    broker = Broker.from_url("mqtt://docks:s%40crt@broker.test")
    assert (broker.host, broker.port, broker.password) == ("broker.test", 1883, "s@crt")
    assert "s@crt" not in repr(broker)
    assert Broker.from_url("mqtts://broker.test").port == 8883


@pytest.mark.parametrize(
    "url", ["", "broker.test", "http://broker.test", "mqtt://:1883", "mqtt://b:x"]
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="broker's address"):
        Broker.from_url(url)


async def test_a_task_that_overhears_a_cancellation_ends_at_the_next() -> None:
    heard = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    assert await end([task], patience=2) == 0
    assert heard.is_set()
