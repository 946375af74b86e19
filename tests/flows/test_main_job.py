"""The main job, end to end: docks come online, packages wait, a batch is upgraded and proves it."""

from collections.abc import Callable

import pytest

from ota.models import UpgradeTask
from ota.states import TaskStatus
from simulator.fleet import plan
from tests.flows.conftest import Story

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


def test_docks_of_three_generations_are_upgraded_and_prove_it(story: Callable[..., Story]) -> None:
    told = story()
    told.simulate(6, "--speed", "20")
    done = told.answer("start_upgrade", "--all", "--wait", "--timeout", "600")
    assert {task["gateway_sn"] for task in done["tasks"]}
    assert set(UpgradeTask.objects.values_list("status", flat=True)) == {TaskStatus.OK}
    status = told.answer("upgrade_status", str(done["rollout_id"]))
    assert status["counts"]["ok"] == 6
    targets = [target for task in status["tasks"] for target in task["targets"]]
    assert all(target["confirmed"] for target in targets)
    assert all(target["reported_version"] == target["to_version"] for target in targets)


def outcomes() -> dict[str, tuple[str, int | None]]:
    """By dock: how its task ended, and the device's result."""
    rows = UpgradeTask.objects.values_list("gateway__sn", "status", "result")
    return {sn: (status, result) for sn, status, result in rows}


PROVEN = (TaskStatus.OK, 0)
EXPECTED: dict[str | None, tuple[str, int | None]] = {
    None: PROVEN,
    # These clear by themselves: the task waits, and goes.
    "busy": PROVEN,
    "offline": PROVEN,
    "low-battery": PROVEN,
    "aircraft-out": PROVEN,
    "emergency-stop": PROVEN,
    "4g": PROVEN,
    # Unusual ways to the same end.
    "consistency": PROVEN,
    "aircraft-off": PROVEN,
    "lost-reply": PROVEN,
    "terminal-lost": (TaskStatus.OK, 0),
    "duplicate": PROVEN,
    "slow-download": PROVEN,
    # These end with the reason that the fault dictates.
    "rejected": (TaskStatus.REJECTED, 312015),
    "fail-download": (TaskStatus.FAILED, 312003),
    "fail-upgrade": (TaskStatus.FAILED, 312028),
    "ok-unproven": (TaskStatus.FAILED, 0),
    "silent": (TaskStatus.TIMEOUT, 0),
}


def test_each_dock_ends_as_its_fault_dictates(story: Callable[..., Story]) -> None:
    told = story(
        OTA_REPLY_SECONDS="15", OTA_STALL_SECONDS="30", OTA_VERIFY_SECONDS="30", OFFLINE_AFTER_SECONDS="15",
    )  # fmt: skip
    names = [name for name in EXPECTED if name]
    faults = [argument for name in names for argument in ("--fault", f"{name}=1")]
    told.simulate(len(names) + 2, "--speed", "20", "--clear-after", "30", *faults)
    wait = ["--wait", "--timeout", "600", "--max-failed-percent", "none"]
    done = told.answer("start_upgrade", "--all", *wait, code=1)
    expected = {
        dock.sn: EXPECTED[dock.fault] for dock in plan(len(names) + 2, dict.fromkeys(names, 1))
    }
    assert outcomes() == expected
    assert done["status"]["counts"]["pending"] == 0
