"""Starts the demo's parts, waits until each answers, starts again what ends, and ends all.

Children are started by the main thread alone: on Linux they end with the thread that started them.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from demo import leash

END_TIME = 7.5  # s, for the parts; the servers under them have the next one and a half
SERVER_END_TIME = 1.5  # s
STEADY = 60.0  # s; who lived this long starts again at once when it ends
LONGEST_PAUSE = 30.0  # s between two attempts
LONG_LOG = 20_000_000  # bytes
MOST_EARLY_ENDS = 3  # a part that ends this often before it answered is given up

Answers = Callable[[Path, int], bool]


@dataclass(frozen=True)
class Part:
    """What runs, where it is reached, and how to ask whether it answers.

    ``answers`` gets the log file and the byte at which this start began. A part without a command
    runs elsewhere: it is asked, and otherwise left alone. Servers start first and end last.
    """

    name: str
    address: str
    answers: Answers
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    is_server: bool = False


class Child:
    """A part as it runs now."""

    def __init__(self, part: Part, log_folder: Path) -> None:
        self.part = part
        self.log = log_folder / f"{part.name}.log"
        self.state = "not started"
        self.ends = 0
        self.due = 0.0  # when it may start, on the monotonic clock
        self._started = 0.0
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, on_end: Callable[["Child"], None]) -> None:
        self.state, self._started = "starting", time.monotonic()
        if not self.part.command:
            return
        self._turn_log_over()
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = process = subprocess.Popen(  # noqa: S603 (our own commands)
                leash.command([*self.part.command]),
                cwd=Path(__file__).resolve().parent.parent,
                env=os.environ | self.part.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

        def watch() -> None:
            process.wait()
            on_end(self)

        threading.Thread(target=watch, name=f"watch-{self.part.name}", daemon=True).start()

    def _turn_log_over(self) -> None:
        """Keeps the last log and this one, where it has grown long."""
        if self.log.exists() and self.log.stat().st_size > LONG_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))

    def answers(self) -> bool:
        return self.part.answers(self.log, self._log_start)

    def plan_restart(self) -> float:
        """Seconds until it may start again: at once at first, then longer and longer."""
        lived = time.monotonic() - self._started
        self.ends = 1 if lived > STEADY else self.ends + 1
        pause = 0.0 if self.ends == 1 else min(2.0 ** (self.ends - 2), LONGEST_PAUSE)
        self.state, self.due = "waiting", time.monotonic() + pause
        return pause

    def exit_words(self) -> str:
        code = self._process.returncode if self._process else None
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def last_words(self) -> str:
        """The last line of its log, for a person who wants to know why."""
        with suppress(OSError):
            lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").split("\n")
            words = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return words.removeprefix("CommandError: ")
        return ""

    def ask_to_end(self) -> None:
        if self._process:
            self._process.terminate()

    def end(self, until: float) -> None:
        """Waits until then for its end; what is left of its group is killed."""
        if not self._process:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self.kill_group()
        self._process.wait()
        self.state = "ended"

    def kill_group(self) -> None:
        """Ends what it has started itself and left behind."""
        if self._process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Supervisor:
    """Runs parts until ``stop``; ``say`` gets a line for people about each change."""

    def __init__(self, parts: Sequence[Part], log_folder: Path, say: Callable[[str], None]) -> None:
        self.children = [Child(part, log_folder) for part in parts]
        self.log_folder = log_folder
        self.is_stopped = False
        self._say = say
        # A signal handler may put into this kind of queue while its own thread takes from it.
        self._events: queue.SimpleQueue[Child | None] = queue.SimpleQueue()

    def stop(self, *_: object) -> None:
        """Asks to end; a signal handler."""
        self._events.put(None)

    def start(self, patience: float) -> bool:
        """Starts servers, then the rest; whether all answer within ``patience`` seconds.

        False also when it was stopped meanwhile.
        """
        until = time.monotonic() + patience
        return self._start(self._servers(), until) and self._start(self._others(), until)

    def run(self) -> None:
        """Looks after the parts until ``stop``."""
        while not self.is_stopped:
            self._turn()

    def end(self) -> None:
        """Ends all parts within ten seconds, servers last, so that the others can finish."""
        for children, seconds in ((self._others(), END_TIME), (self._servers(), SERVER_END_TIME)):
            until = time.monotonic() + seconds
            for child in children:
                child.ask_to_end()
            for child in children:
                child.end(until)

    def silent(self) -> list[Child]:
        """Those that do not answer."""
        return [child for child in self.children if child.state != "answers"]

    def _servers(self) -> list[Child]:
        return [child for child in self.children if child.part.is_server]

    def _others(self) -> list[Child]:
        return [child for child in self.children if not child.part.is_server]

    def _start(self, children: list[Child], until: float) -> bool:
        for child in children:
            child.start(self._events.put)
        while not all(child.state == "answers" for child in children):
            given_up = any(child.ends >= MOST_EARLY_ENDS for child in children)
            if self.is_stopped or given_up or time.monotonic() > until:
                return False
            self._turn()
        return True

    def _turn(self) -> None:
        """Waits for an end, a stop or for what is due next, and does what is due."""
        with suppress(queue.Empty):
            ended = self._events.get(timeout=self._pause())
            if ended is None:
                self.is_stopped = True
                return
            self._bury(ended)
        for child in self.children:
            self._attend(child)

    def _pause(self) -> float:
        """Seconds until something is due; new parts are asked five times a second."""
        if any(child.state == "starting" for child in self.children):
            return 0.2
        due = [child.due for child in self.children if child.state == "waiting"]
        return max(0.0, min(due, default=time.monotonic() + 60.0) - time.monotonic())

    def _bury(self, child: Child) -> None:
        child.kill_group()
        pause = child.plan_restart()
        when = f"in {pause:g} s" if pause else "now"
        self._say(
            f"{child.part.name} {child.exit_words()}; starting it again {when} (see {child.log})"
        )

    def _attend(self, child: Child) -> None:
        if child.state == "waiting" and time.monotonic() >= child.due:
            child.start(self._events.put)
        elif child.state == "starting" and child.answers():
            child.state = "answers"
            if child.ends:
                self._say(f"{child.part.name} answers again")
