"""How a dock talks: sends over whichever connection it has, asks, and waits for answers."""

import asyncio
import logging
from dataclasses import dataclass, field

from simulator import wire
from simulator.link import LinkLostError, Messages, Session

log = logging.getLogger(__name__)

TRIES = 3


@dataclass(frozen=True)
class _Question:
    """What a reply must repeat to count, and whoever waits for its `data`."""

    bid: str
    method: str
    answer: asyncio.Future[object] = field(default_factory=asyncio.Future)

    def fits(self, reply: wire.Incoming) -> bool:
        """Whether `reply` is the answer; some servers leave out its method."""
        return reply.bid == self.bid and reply.method in {None, "", self.method}


def is_success(answer: object) -> bool:
    """Whether the `data` of a reply says so: `result` 0. The reply to `config` alone has no `result`."""
    match answer:
        case {"result": 0}:
            return True
        case _:
            return False


class Voice:
    """The dock's mouth and ears. Topics and envelopes: DJI Cloud API."""

    def __init__(self, sn: str, reply_timeout: float) -> None:
        """`reply_timeout` in real seconds: the server that answers does not live in simulated time."""
        self.sn = sn
        self.reply_timeout = reply_timeout
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._waiting: dict[str, _Question] = {}
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
        """Hand a reply to whoever waits for its `tid`, if `bid` and method are those of the question."""
        self._has_heard = True
        question = self._waiting.get(incoming.tid)
        if question is None or question.answer.done():
            return
        if not question.fits(incoming):
            log.warning(
                "%s: the reply to %s is for another bid or method", self.sn, question.method
            )
            return
        answer = {} if incoming.data is None else incoming.data
        if question.method != "config" and not is_success(answer):
            log.warning("%s: the server refuses %s: %s", self.sn, question.method, answer)
        question.answer.set_result(answer)

    async def ask(self, kind: wire.Kind, method: str, data: wire.Json | None) -> object | None:
        """Send a request and return the `data` of its reply, or None when nobody answers.

        A server that has never answered is asked once per question after the first: it may only listen.
        Raises LinkLostError.
        """
        tries = TRIES if self._has_heard or method == "config" else 1
        for _ in range(tries):
            tid, bid = wire.new_id(), wire.new_id()
            payload = wire.call(method, self.sn, data, tid=tid, bid=bid)
            answer = await self.exchange(kind, payload, tid=tid, bid=bid, method=method)
            if answer is not None:
                return answer
        log.warning("%s: no answer to %s, going on without it", self.sn, method)
        return None

    async def exchange(
        self, kind: wire.Kind, payload: bytes, *, tid: str, bid: str, method: str
    ) -> object | None:
        """Send `payload` and return the `data` of the reply with the same ids; None when it is late.

        Raises LinkLostError.
        """
        question = self._waiting[tid] = _Question(bid, method)
        try:
            await self.send(wire.topic(self.sn, kind), payload)
            async with asyncio.timeout(self.reply_timeout):
                return await question.answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[tid]
