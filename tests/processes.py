"""Real processes for tests: servers on free ports, and our own processes beside them.

Each one leads a process group of its own, writes into a file, and is ended by its id. All of
them end too when the test run itself is killed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from demo import checks, commands, leash, ports

ROOT = Path(__file__).resolve().parent.parent
# s; a machine that is busy with other things does not decide what a test finds.
START_TIME = 180.0
END_TIME = 60.0


def eventually(condition: Callable[[], object], what: str, seconds: float = START_TIME) -> None:
    """Waits until the condition holds; asks often at first, then five times a second.

    Raises:
        TimeoutError: it did not hold in time.
    """
    until, pause = time.monotonic() + seconds, 0.01
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def group_members(group: int) -> list[int]:
    """The ids of the living processes of a process group."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended while we looked
        if int(process_group) == group and state != "Z":
            members.append(int(entry.parent.name))
    return members


class Running:
    """A process: ``answers`` tells when it is ready, its output is in ``log``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        answers: Callable[["Running"], bool],
        environment: Mapping[str, str] | None = None,
        *,
        held: bool = True,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        """``held``: False where the command itself sees to it that it ends with us."""
        self.name = name
        self.log = log
        self.environment = dict(environment or {})
        self._command = leash.command([*command]) if held else [*command]
        self._answers = answers
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self, *, wait: bool = True) -> Self:
        """Starts the process, and returns when it is ready (with ``wait=False`` at once)."""
        assert not self.is_alive, f"{self.name} runs already"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, seconds: float = START_TIME) -> None:
        def ready_or_ended() -> bool:
            return not self.is_alive or self._answers(self)

        try:
            eventually(ready_or_ended, f"readiness of {self.name}", seconds)
            assert self.is_alive, f"{self.name} ended while it started"
        except (TimeoutError, AssertionError) as failure:
            failure.add_note(self.output[-4000:])
            raise

    @property
    def pid(self) -> int:
        assert self._process, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """What it has written since its last start."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def wait_for_line(self, words: str, seconds: float = START_TIME) -> None:
        """Waits until it has written the words since its last start."""
        try:
            eventually(lambda: words in self.output, f"{words!r} from {self.name}", seconds)
        except TimeoutError as failure:
            failure.add_note(self.output[-4000:])
            raise

    def terminate(self, seconds: float = END_TIME) -> int:
        """Asks it to end and returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        assert self._process, f"{self.name} was not started"
        self._process.send_signal(self._stop_signal)
        return self._process.wait(seconds)

    def kill9(self) -> None:
        """Ends it and its children without a warning."""
        assert self._process, f"{self.name} was not started"
        _kill_group(self.pid)
        self._process.wait(END_TIME)
        eventually(lambda: not group_members(self.pid), f"the end of all of {self.name}")

    def restart(self) -> None:
        self.terminate()
        self.start()

    def end(self) -> None:
        """Ends it however it stands, and makes sure that none of its group is left."""
        if self._process is None:
            return
        try:
            if self.is_alive:
                self.terminate()
        finally:
            _kill_group(self.pid)
            self._process.wait(END_TIME)
            eventually(lambda: not group_members(self.pid), f"the end of all of {self.name}")


def _kill_group(group: int) -> None:
    # Asked for first: the id of a group that is gone may belong to somebody else by now.
    if group_members(group):
        os.killpg(group, signal.SIGKILL)


class Processes:
    """Starts our own processes with one environment; see the fixture ``processes``.

    ``web_port`` and ``firmware_port`` are where the console and the firmware server will listen.
    Keyword arguments of the methods are environment variables for that process alone.
    """

    def __init__(
        self, environment: Mapping[str, str], folder: Path, web_port: int, firmware_port: int
    ) -> None:
        self.environment = dict(environment)
        self.web_port, self.firmware_port = web_port, firmware_port
        self._folder = folder
        self.running: list[Running] = []

    @property
    def web_url(self) -> str:
        return f"http://{ports.HOST}:{self.web_port}"

    def bridge(self, *, wait: bool = True, **environment: str) -> Running:
        return self.start(
            "bridge", commands.bridge(), _line("connected to"), environment, wait=wait
        )

    def worker(self, *, wait: bool = True, **environment: str) -> Running:
        command = [*commands.worker(), "--hostname", "worker-%(i)s@%h"]
        return self.start("worker", command, _line("ready."), environment, wait=wait)

    def beat(self, *, wait: bool = True, **environment: str) -> Running:
        return self.start("beat", commands.beat(), _line("beat: Starting"), environment, wait=wait)

    def web(self, *, wait: bool = True, **environment: str) -> Running:
        """The console, at ``http://127.0.0.1:<web_port>``."""
        command = commands.web(self.web_port)
        return self.start("web", command, _healthy(self.web_port), environment, wait=wait)

    def firmware(
        self, *, wait: bool = True, logs_requests: bool = False, **environment: str
    ) -> Running:
        """The firmware server, at ``http://127.0.0.1:<firmware_port>``."""
        command = commands.firmware(self.firmware_port)
        if logs_requests:
            command.remove("--no-access-log")
        return self.start("firmware", command, _healthy(self.firmware_port), environment, wait=wait)

    def simulator(
        self,
        *arguments: str,
        ready: str = "connected",
        wait: bool = True,
        seconds: float = START_TIME,
        **environment: str,
    ) -> Running:
        """Simulated docks; ``arguments`` are those of ``simulate_docks``."""
        running = self.start(
            "simulator", commands.simulator(*arguments), _line(ready), environment, wait=False
        )
        if wait:
            running.wait_until_ready(seconds)
        return running

    def start(
        self,
        name: str,
        command: Sequence[str],
        answers: Callable[[Running], bool],
        environment: Mapping[str, str] | None = None,
        *,
        wait: bool = True,
    ) -> Running:
        """Starts any command with the environment of the test."""
        log = self._folder / f"{name}-{len(self.running) + 1}.log"
        values = self.environment | dict(environment or {})
        process = Running(name, command, log, answers, values)
        self.running.append(process)
        return process.start(wait=wait)

    def end_all(self) -> None:
        """Ends all of them, the youngest first.

        Raises:
            ExceptionGroup: some did not end as they should; none is left all the same.
        """
        failures: list[Exception] = []
        for process in reversed(self.running):
            try:
                process.end()
            except (OSError, subprocess.TimeoutExpired) as failure:
                failure.add_note(f"{process.name}: {process.output[-4000:]}")
                failures.append(failure)
        if failures:
            raise ExceptionGroup("processes that did not end as they should", failures)


def _line(words: str) -> Callable[[Running], bool]:
    return lambda process: words in process.output


def _healthy(port: int) -> Callable[[Running], bool]:
    return lambda _: checks.http_answers(f"http://{ports.HOST}:{port}/healthz")
