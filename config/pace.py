"""How fast and to how many docks firmware goes out at once, over all firmware processes: in Redis.

While Redis is away each process keeps the limits by itself, so that together they may take as many
times as much as there are processes; a download never waits for Redis.

No library was taken for it: ``limits`` has windows and cannot tell how long to wait,
``pyrate-limiter`` keeps an entry for each unit of weight, which with bytes are millions, and none
goes on without Redis.
"""

import asyncio
import logging
import secrets
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# A portion of bytes is worth this many seconds of the whole rate, so that all processes together
# ask Redis 20 times a second at most.
PORTION = 0.05
BURST = 0.1  # s of the rate that may be caught up on after a pause
LEASE = 30.0  # s after which the place of a killed process is free
RENEW = 10.0  # s
# A dock that fetches in pieces keeps its place between two of them.
LINGER = 5.0  # s
# For one dock and package in a process. Each may hold half a megabyte; a dock on a bad link leaves
# some behind that nobody takes any more, until they are given up.
MOST_ANSWERS = 64
ANSWER_TIME = 1.0  # s
ASK_AGAIN = 5.0  # s, while Redis is away

_BYTES_KEY = "fleet-ota:firmware:bytes"
_PLACES_KEY = "fleet-ota:firmware:places"

# When the bytes that were promised so far have gone out, in microseconds by Redis' clock. A portion
# begins there, and moves it on by what the portion takes at the rate. Returns the wait. What lies
# more than a minute ahead was written before Redis' clock was set back.
_RESERVE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = tonumber(redis.call('GET', KEYS[1]) or 0)
if stored > now + 60000000 then stored = now end
local begins = math.max(stored, now - tonumber(ARGV[2]))
local ends = string.format('%.0f', begins + tonumber(ARGV[1]))
redis.call('SET', KEYS[1], ends, 'PX', 60000)
return math.max(0, math.ceil(begins - now))
"""

# Who downloads, by when the place is free again in milliseconds. Returns whether there is one.
_ENTER = """
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 60000, '+inf')
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 120000)
return 1
"""


class Shared:
    """Redis, as long as it answers; says once that it is away, and once that it is back."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(
            url, socket_timeout=ANSWER_TIME, socket_connect_timeout=ANSWER_TIME
        )
        self._scripts: dict[str, Any] = {}
        self._is_away = False
        self._ask_at = 0.0

    async def run(self, script: str, key: str, *values: float | str) -> int | None:
        """What the script answers; None while Redis is away."""
        loop = asyncio.get_running_loop()
        if self._is_away and loop.time() < self._ask_at:
            return None
        found = self._scripts.setdefault(script, self._redis.register_script(script))
        try:
            async with asyncio.timeout(ANSWER_TIME):
                answer = int(await found(keys=[key], args=values))
        except (RedisError, OSError, TimeoutError) as error:
            self._ask_at = loop.time() + ASK_AGAIN
            if not self._is_away:
                logger.warning("Redis is away; this process keeps the limits alone: %r", error)
            self._is_away = True
            return None
        if self._is_away:
            logger.info("Redis is back; the limits count for all processes again")
        self._is_away = False
        return answer

    async def close(self) -> None:
        await self._redis.aclose()


class Throttle:
    """Bytes a second for all downloads together; ``rate`` 0 is no limit.

    Downloads are served in the order in which they ask, a piece at a time: who is slow asks
    seldom and holds no more than its piece.
    """

    def __init__(self, shared: Shared, rate: int) -> None:
        self._shared = shared
        self._rate = rate
        self._left = 0  # bytes that were reserved and nobody has taken
        self._turn = asyncio.Lock()
        self._ends = 0.0  # as in Redis, by the loop's clock

    def piece(self, most: int) -> int:
        """How many bytes to take at once, so that many downloads get their share each second."""
        return min(most, max(8192, int(self._rate * PORTION))) if self._rate else most

    async def take(self, size: int) -> None:
        """Waits until so many bytes may go out."""
        if not self._rate:
            return
        async with self._turn:
            if self._left < size:
                await self._reserve(max(size - self._left, int(self._rate * PORTION)))
            self._left -= size

    async def _reserve(self, size: int) -> None:
        seconds = size / self._rate
        wait = await self._shared.run(
            _RESERVE, _BYTES_KEY, int(seconds * 1_000_000), int(BURST * 1_000_000)
        )
        await asyncio.sleep(self._wait_alone(seconds) if wait is None else wait / 1_000_000)
        self._left += size

    def _wait_alone(self, seconds: float) -> float:
        now = asyncio.get_running_loop().time()
        begins = max(self._ends, now - BURST)
        self._ends = begins + seconds
        return max(0.0, begins - now)


class Places:
    """At most ``limit`` docks download at once; 0 is no limit.

    A place is a dock's and a package's, not a connection's: several ranges at once need one. Too
    many of them are refused even so, or one dock could take all memory.
    """

    def __init__(self, shared: Shared, limit: int) -> None:
        self._shared = shared
        self._limit = limit
        self._open: dict[str, int] = {}  # answers under way, by who
        self._alone: dict[str, float] = {}  # as in Redis, by the loop's clock
        self._renewing: asyncio.Task[None] | None = None

    async def enter(self, who: str) -> bool:
        """Takes a place, or says that there is none."""
        if self._open.get(who, 0) >= MOST_ANSWERS:
            return False
        self._open[who] = self._open.get(who, 0) + 1
        is_in = False
        try:
            is_in = not self._limit or await self._hold(who, LEASE)
        finally:
            if not is_in:
                self._end(who)
        if self._limit and is_in and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew())
        return is_in

    async def leave(self, who: str, *, for_good: bool) -> None:
        """Ends an answer; the place is free at once, or if the dock does not come back soon."""
        if self._end(who) or not self._limit:
            return
        if not self._open and self._renewing:
            self._renewing.cancel()
        await self._hold(who, 0 if for_good else LINGER)

    def _end(self, who: str) -> bool:
        """Whether other answers of the same place are under way."""
        self._open[who] -= 1
        if self._open[who]:
            return True
        del self._open[who]
        return False

    async def _hold(self, who: str, seconds: float) -> bool:
        alone = self._hold_alone(who, seconds)
        answer = await self._shared.run(_ENTER, _PLACES_KEY, who, self._limit, int(seconds * 1000))
        if answer == 0:
            self._alone.pop(who, None)
        return alone if answer is None else bool(answer)

    def _hold_alone(self, who: str, seconds: float) -> bool:
        now = asyncio.get_running_loop().time()
        self._alone = {other: until for other, until in self._alone.items() if until > now}
        if who not in self._alone and len(self._alone) >= self._limit:
            return False
        self._alone[who] = now + seconds
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            for who in list(self._open):
                await self._hold(who, LEASE)


class Pace:
    """Both limits, as the settings have them."""

    def __init__(self) -> None:
        self._shared = Shared(settings.REDIS_URL)
        self.bytes = Throttle(self._shared, settings.FIRMWARE_BYTES_PER_SECOND)
        self.places = Places(self._shared, settings.FIRMWARE_DOWNLOADS)

    async def close(self) -> None:
        await self._shared.close()


_paces: WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = WeakKeyDictionary()


def current() -> Pace:
    """The pace of this process: one for its loop."""
    loop = asyncio.get_running_loop()
    return _paces.get(loop) or _paces.setdefault(loop, Pace())


def retry_after() -> str:
    """Seconds after which a refused dock may ask again; not the same for all."""
    return str(5 + secrets.randbelow(11))
