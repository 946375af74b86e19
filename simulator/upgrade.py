"""One upgrade from the accepted command to the dock's return. DJI Cloud API: ota_create, ota_progress."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from simulator import download, labels
from simulator.faults import RESTARTED, Failure
from simulator.orders import Order
from simulator.progress import Report
from simulator.reporter import Reporter, VanishedError
from simulator.rig import Rig

log = logging.getLogger(__name__)

PROGRESS_PERIOD = 2.0  # simulated seconds
FEWEST_STEPS = 4

Fetch = Callable[["Meter"], Awaitable[None]]
WakeAircraft = Callable[[], Awaitable[None]]


class _FailedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(f"failed with {failure.code}")
        self.failure = failure


@dataclass
class Meter:
    """Bytes fetched of bytes wanted, and since when (loop time in seconds)."""

    wanted: int
    fetched: int = 0
    since: float = 0.0

    def add(self, count: int) -> None:
        self.fetched += count

    @property
    def percent(self) -> int:
        return min(100, 100 * self.fetched // max(1, self.wanted))

    def rate(self, now: float) -> int:
        """Return the mean rate in bytes per second."""
        return int(self.fetched / (now - self.since)) if now > self.since else 0


class Upgrade:
    """Runs one order on one dock."""

    def __init__(
        self,
        rig: Rig,
        order: Order,
        bid: str,
        fetch: Fetch | None = None,
        wake: WakeAircraft | None = None,
    ) -> None:
        """`fetch` replaces the download, `wake` powers a sleeping aircraft on."""
        self._rig = rig
        self._order = order
        self._fetch = fetch or self._download
        self._wake = wake
        self._reporter = Reporter(rig, bid)

    async def run(self) -> str:
        """Go through all steps and return the outcome: `ok`, `failed 312003`, `vanished` …

        The devices are marked as upgrading by whoever accepted the order; this unmarks them.
        """
        rig = self._rig
        await rig.push_upgrading(rig.pair.targets)
        await rig.clock.sleep(rig.fault.mute_seconds)
        try:
            await self._reporter.tell(Report("sent", 0))
            await self._prepare()
            await self._fetch_all()
            await self._install()
        except _FailedError as error:
            return await self._give_up(error.failure)
        except VanishedError:
            rig.power.turn_off()
            return "vanished"
        return await self._complete()

    async def _prepare(self) -> None:
        aircraft = self._rig.pair.aircraft.sn
        if self._wake and not self._rig.pair.is_aircraft_on and aircraft in self._order.sns:
            await self._wake()
            await self._rig.push_upgrading({aircraft})

    async def _fetch_all(self) -> None:
        meter = Meter(sum(target.file_size for target in self._order.targets))
        loop = asyncio.get_running_loop()
        meter.since = loop.time()
        fetching = asyncio.ensure_future(self._fetch(meter))
        try:
            while not fetching.done():
                await self._reporter.tell(
                    Report("in_progress", meter.percent, "download", rate=meter.rate(loop.time()))
                )
                await asyncio.wait({fetching}, timeout=self._rig.clock.period(PROGRESS_PERIOD))
            await self._judge_download(fetching, meter)
        finally:
            fetching.cancel()

    async def _judge_download(self, fetching: asyncio.Future[None], meter: Meter) -> None:
        try:
            await fetching
        except (download.DownloadFailedError, labels.UnfitError) as error:
            log.warning("%s: download failed: %s", self._rig.spec.sn, error)
            raise _FailedError(Failure("download", meter.percent, error.code)) from error
        planned = self._planned
        if planned and planned.step == "download":
            raise _FailedError(planned)
        await self._reporter.tell(Report("in_progress", 100, "download"))

    @property
    def _planned(self) -> Failure | None:
        return self._rig.fault.failure or self._rig.moments.failure

    async def _download(self, meter: Meter) -> None:
        """Fetch all packages, then see whether each is for its device."""
        line, targets = self._rig.line, self._order.targets
        ends = [await download.fetch(line, target, meter.add) for target in targets]
        for target, end in zip(targets, ends, strict=True):
            model_key = self._rig.pair.device(target.sn).model_key
            labels.check(end, model_key, target.product_version)

    async def _install(self) -> None:
        duration, clock = self._rig.options.upgrade, self._rig.clock
        steps = max(FEWEST_STEPS, int(clock.real(duration) / clock.period(PROGRESS_PERIOD)))
        for step in range(steps):
            percent, planned = 100 * step // steps, self._planned
            if planned and planned.step == "upgrade" and percent >= planned.percent:
                raise _FailedError(planned)
            await self._reporter.tell(Report("in_progress", percent, "upgrade"))
            await clock.sleep(duration / steps)

    async def _give_up(self, failure: Failure) -> str:
        report = Report("failed", failure.percent, failure.step, result=failure.code)
        if failure.code == RESTARTED:
            await self._reporter.tell(report)
            await self._restart(is_new=self._rig.fault.installs_anyway)
        else:
            targets = self._rig.pair.targets
            self._rig.pair.end()
            await self._reporter.tell(report)
            await self._rig.push_upgrading(targets)
        return f"failed {failure.code}"

    async def _complete(self) -> str:
        fault = self._rig.fault
        if not fault.loses_terminal:
            await self._reporter.tell(Report("ok", 100, "upgrade"))
        await self._restart(is_new=not fault.keeps_version)
        if fault.keeps_version:
            return "ok unproven"
        return "ok without terminal event" if fault.loses_terminal else "ok"

    async def _restart(self, *, is_new: bool) -> None:
        """Go off and on, with the new versions if `is_new`; the dock then reports all anew."""
        rig = self._rig
        await self._reporter.flush()
        rig.power.turn_off()
        await rig.clock.sleep(rig.options.reboot)
        rig.pair.end()
        if is_new:
            self._install_versions()
        rig.power.turn_on()

    def _install_versions(self) -> None:
        for target in self._order.targets:
            device = self._rig.pair.device(target.sn)
            device.version, device.compatible_status = target.product_version, 0
            self._rig.memory.remember(device.sn, device.version, device.compatible_status)
        try:
            self._rig.memory.save()
        except OSError as error:
            log.warning("%s: its new version cannot be kept: %s", self._rig.spec.sn, error)
