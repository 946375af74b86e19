"""A dock: keeps its connection, onboards, pushes its properties, obeys commands."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace

import msgspec

from simulator import link, onboarding, orders, wire
from simulator.ending import end
from simulator.faults import FINE
from simulator.foreign import upgrade_by_somebody_else
from simulator.link import LinkLostError
from simulator.osd import OSD_PERIOD, Osd
from simulator.rig import Rig
from simulator.upgrade import Upgrade

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 30.0  # real seconds between attempts to reach the broker
NAP_AFTER = 10.0  # simulated seconds until an aircraft that is not needed goes to sleep
UNKNOWN_METHOD = 1


class Dock:
    """One dock with its aircraft, from power-up to the end of the simulation."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sn = rig.spec.sn
        self._osd = Osd(rig.pair)
        self._rejections = rig.fault.rejections
        self._has_settled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Live until cancelled: connected while powered, gone while not."""
        try:
            while True:
                await self.rig.power.wait_on()
                await self._run_until_off()
        finally:
            await end(self._tasks)

    async def _run_until_off(self) -> None:
        connected = asyncio.create_task(self._stay_connected())
        off = asyncio.create_task(self.rig.power.wait_off())
        try:
            await asyncio.wait({connected, off}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end([connected, off])

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._connect_once()
            except* LinkLostError as lost:
                log.info("%s: broker lost: %s", self.sn, lost.exceptions[0])
            except* onboarding.NoLicenceError as refused:
                reason = refused.exceptions[0]
                log.warning(
                    "%s: leaves the broker, for the server gives it no licence: %s", self.sn, reason
                )
            except* Exception:
                log.exception("%s: stumbled", self.sn)
            has_lasted = asyncio.get_running_loop().time() - started > LONGEST_BACKOFF
            attempt = 1 if has_lasted else attempt + 1
            await asyncio.sleep(_backoff(attempt))

    async def _connect_once(self) -> None:
        topics = wire.heard_topics(self.sn)
        async with link.connect(self.rig.options.broker, self.sn, topics) as session:
            self.rig.voice.open(session)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(session))
                    tasks.create_task(self._live())
            finally:
                self.rig.voice.close()

    async def _live(self) -> None:
        is_acknowledged = await onboarding.introduce(self.rig)
        self.rig.tally.online.add(self.sn)
        self.rig.on_online()
        self._settle()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._push_osd())
            if self.rig.fault.aircraft_sleeps:
                tasks.create_task(self._nap())
            if not is_acknowledged:
                tasks.create_task(self._announce_until_acknowledged())

    async def _announce_until_acknowledged(self) -> None:
        is_acknowledged = False
        while not is_acknowledged:
            await asyncio.sleep(onboarding.TOPOLOGY_PAUSE)
            is_acknowledged = await onboarding.announce(self.rig)

    @property
    def _osd_period(self) -> float:
        return self.rig.options.osd or self.rig.clock.period(OSD_PERIOD)

    async def _push_osd(self) -> None:
        """A round each period. One that comes so late that the next is due takes its place."""
        period, loop = self._osd_period, asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.rig.voice.push(self._osd.round())
            now = loop.time()
            self.rig.tally.lateness.note(now - due)
            due = max(due + period, now)
            await asyncio.sleep(due - now)

    async def _listen(self, session: link.Session) -> None:
        async for topic, payload in session.messages():
            await self._hear(wire.kind_of(topic), payload)

    async def _hear(self, kind: str, payload: bytes) -> None:
        try:
            incoming = wire.decode(payload)
        except msgspec.DecodeError as error:
            log.warning("%s: unreadable message on %s: %s", self.sn, kind, error)
            return
        if kind == "services":
            await self._serve(incoming)
        elif kind.endswith("_reply"):
            self.rig.voice.hear(incoming)

    async def _serve(self, incoming: wire.Incoming) -> None:
        if not (incoming.tid and incoming.bid):
            log.warning("%s: a command without tid or bid: %s", self.sn, incoming.method)
            await self._refuse(incoming, orders.MALFORMED)
            return
        if incoming.method == "ota_create":
            await self._order(incoming)
            return
        if incoming.method == "sdr_workmode_switch":
            await self._switch_link(incoming)
            return
        log.info("%s: no such command: %s", self.sn, incoming.method)
        await self._reply(incoming, {"result": UNKNOWN_METHOD})

    async def _switch_link(self, incoming: wire.Incoming) -> None:
        match incoming.data:
            case {"link_workmode": (0 | 1) as mode}:
                pair = self.rig.pair
                pair.condition = replace(pair.condition, link_workmode=mode)
                await self._reply(incoming, {"result": 0})
            case _:
                await self._reply(incoming, {"result": orders.INVALID})

    async def _order(self, incoming: wire.Incoming) -> None:
        self.rig.tally.commands.add(incoming.tid)
        try:
            order = self._accept(incoming)
        except orders.Refused as refused:
            await self._refuse(incoming, refused.code)
            return
        # Before the reply, so that a lost connection does not lose an accepted upgrade.
        self._spawn(self._upgrade(order, incoming.bid))
        if not self.rig.fault.mute_seconds:
            await self._reply(incoming, {"result": 0, "output": {"status": "in_progress"}})

    def _accept(self, incoming: wire.Incoming) -> orders.Order:
        order = orders.read(incoming.data, self.rig.pair)
        if self._rejections:
            self._rejections -= 1
            raise orders.Refused(orders.BUSY)
        self.rig.pair.begin(order.sns)
        return order

    async def _refuse(self, incoming: wire.Incoming, code: int) -> None:
        self.rig.tally.outcomes[f"refused {code}"] += 1
        await self._reply(incoming, {"result": code, "output": {"status": "rejected"}})

    async def _reply(self, incoming: wire.Incoming, data: wire.Json) -> None:
        topic = wire.topic(self.sn, "services_reply")
        await self.rig.voice.send(topic, wire.reply(incoming, self.sn, data))

    async def _upgrade(self, order: orders.Order, bid: str) -> None:
        self.rig.tally.upgrades += 1
        await self._finish(Upgrade(self.rig, order, bid, wake=self._wake_aircraft))

    async def _finish(self, upgrade: Upgrade) -> None:
        outcome = await upgrade.run()
        self.rig.tally.outcomes[outcome] += 1
        log.info("%s: upgrade %s", self.sn, outcome)

    def _settle(self) -> None:
        """Start what happens once in a dock's life."""
        if self._has_settled:
            return
        self._has_settled = True
        self._spawn(self._ask_for_maps())
        if self.rig.fault.leaves:
            self.rig.power.turn_off()
        if self.rig.fault.clears:
            self._spawn(self._recover())
        if self.rig.fault.has_foreign_upgrade:
            self._spawn(self._be_upgraded_by_somebody_else())

    async def _ask_for_maps(self) -> None:
        for method in ("flight_areas_get", "offline_map_get"):
            await self.rig.voice.ask("requests", method, None)

    async def _recover(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.rig.options.clear_after or None):
                await self.rig.moments.cleared.wait()
        self.rig.pair.condition = FINE
        self.rig.power.turn_on()

    async def _nap(self) -> None:
        await self.rig.clock.sleep(NAP_AFTER)
        if not self.rig.pair.is_upgrading:
            self.rig.pair.is_aircraft_on = False
            await onboarding.announce(self.rig)

    async def _wake_aircraft(self) -> None:
        if not self.rig.pair.is_aircraft_on:
            self.rig.pair.is_aircraft_on = True
            # Without a connection the next one announces the aircraft anyway.
            with suppress(LinkLostError):
                await onboarding.announce(self.rig)

    async def _be_upgraded_by_somebody_else(self) -> None:
        upgrade = await upgrade_by_somebody_else(self.rig)
        if upgrade:
            await self._finish(upgrade)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, LinkLostError):
            log.info("%s: broker lost: %s", self.sn, error)
        else:
            log.error("%s: stumbled", self.sn, exc_info=error)


def _backoff(attempt: int) -> float:
    """Return real seconds to wait, with jitter: a thousand docks must not come back at once."""
    longest = min(LONGEST_BACKOFF, 2.0 ** min(attempt, 6) / 2)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
