"""Limits of firmware: bytes a second and downloads at once, over all processes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import redis

from config import pace
from config.pace import Pace, Places, Shared, Throttle
from demo import ports
from ota.models import Download
from tests.fetching import CONTENT, address_of
from tests.processes import Processes, eventually
from tests.servers import Server

pytestmark = pytest.mark.services

RATE = 1_000_000  # bytes a second
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
async def shared(redis_server: Server) -> AsyncIterator[Shared]:
    found = Shared(redis_server.url)
    yield found
    await found.close()


@pytest.fixture
async def others(redis_server: Server) -> AsyncIterator[Shared]:
    """Another process's end of the same Redis."""
    found = Shared(redis_server.url)
    yield found
    await found.close()


async def spend(throttle: Throttle, size: int, piece: int = 10_000) -> float:
    """The seconds that so many bytes take."""
    began = time.monotonic()
    for _ in range(size // piece):
        await throttle.take(piece)
    return time.monotonic() - began


async def test_bytes_go_out_at_the_rate(shared: Shared) -> None:
    assert 0.8 < await spend(Throttle(shared, RATE), RATE) < 10


async def test_two_processes_share_the_rate(shared: Shared, others: Shared) -> None:
    both = [spend(Throttle(one, RATE), RATE // 2) for one in (shared, others)]
    first, second = await asyncio.gather(*both)
    assert 0.8 < max(first, second) < 10


async def test_redis_is_asked_seldom(shared: Shared, redis_server: Server) -> None:
    with redis.Redis.from_url(redis_server.url) as connection:
        connection.config_resetstat()
        await spend(Throttle(shared, RATE), RATE, piece=1000)
        asked = connection.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert asked <= 25


async def test_downloads_in_a_process_get_the_same(shared: Shared) -> None:
    throttle, taken = Throttle(shared, RATE), [0, 0, 0]

    async def fetch(number: int) -> None:
        while True:
            await throttle.take(5000)
            taken[number] += 5000

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await asyncio.gather(*(fetch(number) for number in range(3)))
    assert max(taken) - min(taken) <= 50_000


async def test_who_is_slow_does_not_hold_what_others_could_use(shared: Shared) -> None:
    throttle = Throttle(shared, RATE)
    await throttle.take(10_000)  # and never comes back
    assert await spend(throttle, RATE // 2) < 0.9


async def test_who_hangs_up_while_waiting_keeps_nobody(shared: Shared) -> None:
    throttle = Throttle(shared, RATE)
    waiting = asyncio.create_task(throttle.take(60 * RATE))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await spend(throttle, 100_000) < 30


async def test_without_a_limit_nobody_waits_and_redis_is_not_asked() -> None:
    shared = Shared(NOWHERE)
    throttle, places = Throttle(shared, 0), Places(shared, 0)
    assert await spend(throttle, 10**9, 10**8) < 30
    assert all([await places.enter(str(number)) for number in range(100)])
    assert throttle.piece(1000) == 1000


async def test_one_dock_gets_a_bounded_number_of_answers_at_once() -> None:
    places = Places(Shared(NOWHERE), 0)
    found = [await places.enter("a") for _ in range(1000)]
    assert (found.count(True), found[-1]) == (pace.MOST_ANSWERS, False)
    assert await places.enter("b")
    await places.leave("a", for_good=False)
    assert await places.enter("a")


async def test_while_redis_is_away_a_process_keeps_the_limits_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = Shared(NOWHERE)
    with caplog.at_level(logging.WARNING):
        assert 0.3 < await spend(Throttle(shared, RATE), RATE // 2) < 10
        places = Places(shared, 2)
        assert [await places.enter(who) for who in "abc"] == [True, True, False]
    assert len(caplog.records) == 1
    assert "Redis is away" in caplog.text


async def test_it_is_said_that_redis_is_back(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "ASK_AGAIN", 0.0)
    shared = Shared(redis_server.url)
    redis_server.stop()
    await Throttle(shared, RATE).take(1)
    redis_server.start()
    with caplog.at_level(logging.INFO):
        await Throttle(shared, RATE).take(1)
    assert "Redis is back" in caplog.text
    await shared.close()


async def test_places_are_counted_over_all_processes(shared: Shared, others: Shared) -> None:
    here, there = Places(shared, 2), Places(others, 2)
    assert await here.enter("a")
    assert await there.enter("b")
    assert not await here.enter("c")
    await there.leave("b", for_good=True)
    assert await here.enter("c")


async def test_a_dock_that_fetches_in_pieces_keeps_its_place(
    shared: Shared, others: Shared
) -> None:
    here, there = Places(shared, 1), Places(others, 1)
    await here.enter("a")
    await here.leave("a", for_good=False)
    assert not await there.enter("b")
    assert await there.enter("a")


async def test_two_ranges_of_one_dock_need_one_place(shared: Shared) -> None:
    places = Places(shared, 2)
    assert [await places.enter(who) for who in "aab"] == [True, True, True]
    await places.leave("a", for_good=True)
    assert not await places.enter("c")


async def enters_within(seconds: float, places: Places) -> bool:
    """Asks again and again, as docks do."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if await places.enter("b"):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_the_place_of_a_killed_process_is_free_after_a_while(
    shared: Shared, others: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEASE", 0.3)
    assert await Places(shared, 1).enter("a")  # nobody renews it: the lease ends before
    waiting = Places(others, 1)
    assert not await waiting.enter("b")
    assert await enters_within(120, waiting)


async def test_a_clock_of_redis_that_was_set_back_stops_nobody(
    shared: Shared, redis_server: Server
) -> None:
    """What is kept there lies an hour ahead then."""
    with redis.Redis.from_url(redis_server.url) as server:
        ahead = server.time()[0] + 3600
        server.set(pace._BYTES_KEY, ahead * 1_000_000)
        server.zadd(pace._PLACES_KEY, {"somebody": ahead * 1000})
    async with asyncio.timeout(20):  # and not an hour
        await spend(Throttle(shared, RATE), 100_000)
    assert await Places(shared, 1).enter("a")


async def test_a_download_that_takes_long_keeps_its_place(
    shared: Shared, others: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEASE", 3)
    monkeypatch.setattr(pace, "RENEW", 0.1)
    await Places(shared, 1).enter("a")
    waiting = Places(others, 1)
    assert not await enters_within(4, waiting)


async def test_each_loop_has_one_pace(redis_server: Server) -> None:
    assert isinstance(pace.current(), Pace)
    assert pace.current() is pace.current()
    await pace.current().close()


# The process.

pytest_database = pytest.mark.django_db(transaction=True)


@pytest_database
def test_a_dock_too_many_is_asked_to_come_back_and_that_is_no_try_but_it_has_come(
    processes: Processes,
) -> None:
    processes.firmware(FIRMWARE_DOWNLOADS="1")
    first, second = address_of(bytes(50_000_000)), address_of()
    with httpx.stream("GET", first) as answer:
        next(answer.iter_raw(1000))
        refused = httpx.get(second)
    assert refused.status_code == 503
    assert 5 <= int(refused.headers["retry-after"]) <= 15
    eventually(lambda: Download.objects.count() == 2, "a count")
    assert Download.objects.filter(requests=0, bytes_served=0).count() == 1
    eventually(lambda: httpx.get(second).status_code == 200, "a free place")


@pytest_database
def test_two_processes_keep_the_rate_together(processes: Processes) -> None:
    processes.environment["FIRMWARE_BYTES_PER_SECOND"] = str(2 * RATE)
    address, first = address_of(bytes(2 * RATE)), processes.firmware_port
    processes.firmware()
    processes.firmware_port = ports.free()
    processes.firmware()
    second = address.replace(f":{first}/", f":{processes.firmware_port}/")

    async def fetch() -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=120))
            answers = await asyncio.gather(client.get(address), client.get(second))
        assert all(len(answer.content) == 2 * RATE for answer in answers)

    began = time.monotonic()
    asyncio.run(fetch())
    assert 1.7 < time.monotonic() - began < 20


@pytest_database
def test_downloads_go_on_while_redis_is_away(processes: Processes, redis_server: Server) -> None:
    running = processes.firmware(FIRMWARE_BYTES_PER_SECOND=str(RATE), FIRMWARE_DOWNLOADS="5")
    address = address_of()
    redis_server.stop()
    assert httpx.get(address).content == CONTENT
    running.wait_for_line("keeps the limits alone")
