"""How a dock talks: sends over whichever connection it has, asks, and waits for answers."""

import asyncio
import logging

from simulator import wire
from simulator.link import LinkLostError, Messages, Session

log = logging.getLogger(__name__)

TRIES = 3


class Voice:
    """The dock's mouth and ears. Topics and envelopes: DJI Cloud API."""

    def __init__(self, sn: str, reply_timeout: float) -> None:
        """`reply_timeout` in real seconds: the server that answers does not live in simulated time."""
        self.sn = sn
        self.reply_timeout = reply_timeout
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[object]] = {}
        self._has_heard = False

    def open(self, session: Session) -> None:
        self._session = session
        self._connected.set()

    def close(self) -> None:
        self._session = None
        self._connected.clear()

    async def send(self, topic: str, payload: bytes) -> None:
        """Publish now. Raises LinkLostError without a connection."""
        if self._session is None:
            raise LinkLostError("not connected")
        await self._session.send(topic, payload)

    async def push(self, messages: Messages) -> None:
        """Publish what the next ones replace anyway: nobody acknowledges them. Raises LinkLostError without a connection."""
        if self._session is None:
            raise LinkLostError("not connected")
        await self._session.push(messages)

    async def insist(self, topic: str, payload: bytes) -> None:
        """Publish, over the next connection if need be."""
        while True:
            await self._connected.wait()
            session = self._session
            try:
                await self.send(topic, payload)
            except LinkLostError:
                if self._session is session:
                    self.close()
            else:
                return

    def hear(self, incoming: wire.Incoming) -> None:
        """Hand a reply to whoever waits for its `tid`."""
        self._has_heard = True
        waiting = self._waiting.get(incoming.tid)
        if waiting and not waiting.done():
            waiting.set_result({} if incoming.data is None else incoming.data)

    async def ask(self, kind: wire.Kind, method: str, data: wire.Json | None) -> object | None:
        """Send a request and return the `data` of its reply, or None when nobody answers.

        A server that has never answered is asked once per question after the first: it may only listen.
        Raises LinkLostError.
        """
        tries = TRIES if self._has_heard or method == "config" else 1
        for _ in range(tries):
            tid, bid = wire.new_id(), wire.new_id()
            payload = wire.call(method, self.sn, data, tid=tid, bid=bid)
            answer = await self.exchange(kind, tid, payload)
            if answer is not None:
                return answer
        log.warning("%s: no answer to %s, going on without it", self.sn, method)
        return None

    async def exchange(self, kind: wire.Kind, tid: str, payload: bytes) -> object | None:
        """Send `payload` and return the `data` of the reply with the same `tid`; None when it is late.

        Raises LinkLostError.
        """
        waiting: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[tid] = waiting
        try:
            await self.send(wire.topic(self.sn, kind), payload)
            async with asyncio.timeout(self.reply_timeout):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._waiting[tid]
