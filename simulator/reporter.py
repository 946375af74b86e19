"""Sends the progress of one upgrade, with the habits and the faults of the dock."""

import asyncio
from contextlib import suppress

from simulator import progress, wire
from simulator.link import LinkLostError
from simulator.progress import Report
from simulator.rig import Rig
from simulator.voice import is_success


class VanishedError(Exception):
    """The dock has told as much as it ever will."""


class Reporter:
    """Tells the progress of the upgrade `bid` of one dock."""

    def __init__(self, rig: Rig, bid: str) -> None:
        self._rig = rig
        self._bid = bid
        self._told = 0
        self._held: bytes | None = None
        self._resending: set[asyncio.Task[None]] = set()

    async def tell(self, report: Report) -> None:
        """Send `report` as an event. Without a connection a dock goes on, and tells only the end later.

        Raises VanishedError after the last event of a dock that disappears.
        """
        tid = wire.new_id()
        dialect, sn = self._rig.spec.dialect, self._rig.spec.sn
        event = progress.event(report, dialect, sn, tid=tid, bid=self._bid)
        if self._rig.fault.repeats_progress:
            await self._send_swapped(event, is_last=report.is_terminal)
        elif progress.needs_reply(report, dialect):
            await self._send_for_reply(event, tid, is_last=report.is_terminal)
        else:
            await self._send(event, is_last=report.is_terminal)
        self._count()

    async def flush(self) -> None:
        """Send what is still held back, and stop waiting for answers."""
        if self._held is not None:
            held, self._held = self._held, None
            await self._send(held, is_last=True)
            await self._send(held, is_last=True)
        for task in self._resending:
            task.cancel()

    def _count(self) -> None:
        self._told += 1
        self._rig.tally.reports += 1
        if self._told == self._rig.fault.vanishes_after:
            raise VanishedError

    async def _send(self, event: bytes, *, is_last: bool) -> None:
        topic = wire.topic(self._rig.spec.sn, "events")
        if is_last:
            await self._rig.voice.insist(topic, event)
        else:
            with suppress(LinkLostError):
                await self._rig.voice.send(topic, event)

    async def _send_swapped(self, event: bytes, *, is_last: bool) -> None:
        if self._held is None:
            self._held = event
            return
        await self._send(event, is_last=is_last)
        await self._send(event, is_last=is_last)
        await self.flush()

    async def _send_for_reply(self, event: bytes, tid: str, *, is_last: bool) -> None:
        """Send `event`, and once more when no `events_reply` acknowledges it. Only a terminal event is waited for."""
        sending = asyncio.create_task(self._send_twice_at_most(event, tid, is_last=is_last))
        self._resending.add(sending)
        sending.add_done_callback(self._resending.discard)
        if is_last:
            await sending

    async def _send_twice_at_most(self, event: bytes, tid: str, *, is_last: bool) -> None:
        try:
            if not await self._is_acknowledged(event, tid):
                await self._is_acknowledged(event, tid)
        except LinkLostError:
            await self._send(event, is_last=is_last)

    async def _is_acknowledged(self, event: bytes, tid: str) -> bool:
        exchange = self._rig.voice.exchange
        return is_success(
            await exchange("events", event, tid=tid, bid=self._bid, method="ota_progress")
        )
