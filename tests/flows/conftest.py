"""A whole fleet for stories: organization, library, processes and simulated docks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page

from fleet.models import Device, Organization
from ota import packages
from ota.models import Rollout, UpgradeTask
from ota.states import TaskStatus
from simulator.packages import SERIES, build
from tests.browser import chromium, enter, new_page
from tests.make import make_organization
from tests.people import make_person
from tests.processes import ROOT, START_TIME, Processes, Running, eventually

CODE = "STORYCODE7"


@pytest.fixture(autouse=True)
def not_counted(uncounted: None) -> None:
    """What is told here is covered by the tests of its parts; counting it would cost minutes."""


class Story(NamedTuple):
    """Everything runs and the docks are online."""

    processes: Processes
    organization: Organization
    parts: dict[str, Running]

    def simulate(
        self, docks: int, *arguments: str, online: int | None = None, seconds: float = START_TIME
    ) -> Running:
        """Starts docks and waits until they are online and have reported their versions."""
        running = self.processes.simulator(
            "--docks", str(docks), "--organization", self.organization.identifier,
            "--code", CODE, *arguments, ready="docks online", seconds=seconds,
        )  # fmt: skip
        known = Device.objects.exclude(firmware_version="").exclude(organization=None)
        wanted = 2 * docks if online is None else online
        eventually(lambda: known.count() >= wanted, f"reports of {wanted} devices", seconds)
        return running

    def wait(self, condition: Callable[[], object], what: str, seconds: float = START_TIME) -> None:
        """Waits for something that the upgrades lead to; a failure says how they stand."""
        try:
            eventually(condition, what, seconds)
        except TimeoutError as failure:
            failure.add_note(standing())
            raise

    def command(self, *arguments: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a management command as a user would."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, text=True, capture_output=True,
            env=self.environment, timeout=seconds, check=False,
        )  # fmt: skip

    def answer(self, *arguments: str, code: int = 0, seconds: float = 600) -> Any:
        """The JSON document that a command prints."""
        done = self.command(*arguments, "--json", seconds=seconds)
        assert done.returncode == code, done.stderr[-3000:] + done.stdout[-2000:]
        return json.loads(done.stdout)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.processes.environment


def standing() -> str:
    """How all rollouts and the first upgrades that have not gone well stand, for a failure."""
    rollouts = Rollout.objects.values_list("pk", "status", "pause_reason")
    columns = ("gateway__sn", "wave__number", "status", "message", "waits_for")
    tasks = UpgradeTask.objects.exclude(status=TaskStatus.OK).order_by("pk").values_list(*columns)
    return "\n".join(str(row) for row in [*rollouts, *tasks[:50]])


def docks_say(simulator: Running) -> dict[str, int]:
    """Ends a simulator that was started with ``--json``; what became of its commands and upgrades."""
    simulator.terminate()
    document = next(line for line in simulator.output.splitlines() if line.startswith("{"))
    found: dict[str, int] = json.loads(document)["outcomes"]
    return found


@pytest.fixture
def story(processes: Processes, tmp_path: Path) -> Callable[..., Story]:
    """Starts bridge, worker, beat and firmware server; keyword arguments are their environment."""

    def tell(size: int = 50_000, **environment: str) -> Story:
        processes.environment |= {
            "SETTLE_SECONDS": "1",
            "DJI_APP_ID": "story", "DJI_APP_KEY": "story", "DJI_APP_LICENSE": "story",
            # The first attempt decides; pauses between attempts would outlast a story.
            "OTA_RETRIES": "0", "OTA_WAIT_RETRIES": "0",
        } | environment  # fmt: skip
        organization = make_organization(binding_code=CODE)
        for series in SERIES.values():
            for release in (series.older, series.newer):
                path = build(tmp_path, series.name, release.version, release.released, size)
                packages.add(path, models=series.model_keys)
        parts = {
            "bridge": processes.bridge(),
            "firmware": processes.firmware(),
            "worker": processes.worker(),
            "beat": processes.beat(),
        }
        return Story(processes, organization, parts)

    return tell


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    # The browser's driver keeps an event loop in this thread; Django would refuse to work beside it.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose complaints fail the test."""
    complaints: list[str] = []
    opened = new_page(browser)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    assert not complaints


@pytest.fixture
def operator(transactional_db: None) -> User:
    return make_person("Operators")


@pytest.fixture
def console(processes: Processes, page: Page, operator: User) -> Page:
    """A browser of an operator, at the console."""
    processes.web()
    enter(page, processes.web_url, operator)
    return page
