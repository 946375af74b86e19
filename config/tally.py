"""What docks fetch from this process, gathered in memory and written about once a second."""

import dataclasses
import datetime as dt
import logging
import math
import threading
import time

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from ota import downloads, live
from ota.delivery import Download
from ota.downloads import Change

logger = logging.getLogger(__name__)

EVERY = 1.0  # s
RETRY_AFTER = 5.0  # s, while the database is away
CLOSE_TIME = 3.0  # s
SMOOTH = 5.0  # s over which a rate is smoothed
IDLE = 30.0  # s; after such a pause a rate begins anew


@dataclasses.dataclass
class _Count:
    """What is not written yet."""

    first_at: dt.datetime
    requests: int = 0
    bytes_served: int = 0
    fresh: int = 0  # bytes that count for the rate: those that nobody tried to write yet
    last_offset: int | None = None
    last_at: dt.datetime | None = None


@dataclasses.dataclass
class _Speed:
    """Bytes a second of late; by the clock of ``time.monotonic``."""

    at: float
    rate: float | None = None

    def add(self, size: int, now: float) -> int:
        seconds = max(now - self.at, 0.001)
        weight = 1 - math.exp(-seconds / SMOOTH)
        fresh = size / seconds
        self.rate = fresh if self.rate is None else self.rate + (fresh - self.rate) * weight
        self.at = now
        return int(self.rate)


class Tally:
    """Takes notes in the loop's thread and writes them in one of its own.

    While the database is away it keeps them: a few numbers for each download.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._counts: dict[Download, _Count] = {}
        self._speeds: dict[Download, _Speed] = {}
        self._wake = threading.Event()
        self._is_closed = False
        self._is_away = False
        self._thread: threading.Thread | None = None

    def note(
        self,
        download: Download,
        *,
        requests: int = 0,
        size: int = 0,
        offset: int | None = None,
        has_rate: bool = True,
    ) -> None:
        """A dock asked, or took ``size`` bytes, which leads up to ``offset`` in the file.

        ``has_rate``: False where it is not known when the bytes went out.
        """
        now, clock = timezone.now(), time.monotonic()
        with self._lock:
            count = self._counts.setdefault(download, _Count(first_at=now))
            count.requests += requests
            count.bytes_served += size
            count.fresh += size
            count.last_offset = count.last_offset if offset is None else offset
            count.last_at = now
            speed = self._speeds.get(download)
            if has_rate and (speed is None or clock - speed.at > IDLE):
                self._speeds[download] = _Speed(clock)

    def start(self) -> None:
        """Starts the thread that writes."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._write_for_ever, name="tally", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Has it written now, because a download has ended."""
        self._wake.set()

    def close(self) -> None:
        """Writes what is left, if the database takes it in time."""
        self._is_closed = True
        self._wake.set()
        if self._thread:
            self._thread.join(CLOSE_TIME)

    def flush(self) -> None:
        """Writes all that is noted.

        Raises:
            DatabaseError, InterfaceError: the database is away; all is kept.
        """
        with self._writing:
            with self._lock:
                taken, self._counts = self._counts, {}
                changes = self._changes(taken)
            try:
                live.announce(downloads.record(changes))
            except BaseException:
                self._put_back(taken)
                raise

    def _changes(self, taken: dict[Download, _Count]) -> list[Change]:
        clock = time.monotonic()
        found = []
        for download, count in taken.items():
            speed = self._speeds.get(download)
            change = Change(
                *download,
                requests=count.requests,
                bytes_served=count.bytes_served,
                last_offset=count.last_offset,
                rate=speed.add(count.fresh, clock) if speed and count.fresh else None,
                first_at=count.first_at,
                last_at=count.last_at or count.first_at,
            )
            found.append(change)
        self._speeds = {
            download: speed for download, speed in self._speeds.items() if clock - speed.at <= IDLE
        }
        return found

    def _put_back(self, taken: dict[Download, _Count]) -> None:
        with self._lock:
            for download, count in taken.items():
                newer = self._counts.setdefault(download, _Count(first_at=count.first_at))
                newer.first_at = count.first_at
                newer.requests += count.requests
                newer.bytes_served += count.bytes_served
                if newer.last_offset is None:
                    newer.last_offset = count.last_offset
                newer.last_at = newer.last_at or count.last_at

    def _write_for_ever(self) -> None:
        while not self._is_closed:
            self._wake.wait(EVERY)
            self._wake.clear()
            if not self._try_to_flush() and not self._is_closed:
                time.sleep(RETRY_AFTER)
        self._try_to_flush()

    def _try_to_flush(self) -> bool:
        if not self._counts:
            return True
        try:
            self.flush()
        except (DatabaseError, InterfaceError) as error:
            if not self._is_away:  # said once, however long it lasts
                logger.warning("the database is away; downloads are counted later: %s", error)
            self._is_away = True
        except Exception:
            logger.exception("downloads could not be counted")
            self._is_away = True
        else:
            self._is_away = False
        finally:
            connection.close()
        return not self._is_away


tally = Tally()
