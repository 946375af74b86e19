"""The main job, end to end: docks come online, packages wait, a batch is upgraded and proves it.

``KILL_DOCKS=200`` tells of the kills at the size of a fleet.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ota.models import TaskEvent, UpgradeTask
from ota.models.upgrades import UpgradeTaskQuerySet
from ota.states import TaskStatus
from simulator.fleet import plan
from tests.flows.conftest import Story, docks_say
from tests.histories import History
from tests.processes import eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

KILL_DOCKS = int(os.environ.get("KILL_DOCKS") or "20")


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
    "terminal-lost": PROVEN,
    "duplicate": PROVEN,
    "slow-download": PROVEN,
    "failed-proven": PROVEN,
    # These end with the reason that the fault dictates.
    "rejected": (TaskStatus.REJECTED, 312015),
    "fail-download": (TaskStatus.FAILED, 312003),
    "fail-upgrade": (TaskStatus.TIMEOUT, 312028),
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


def test_killed_bridge_and_worker_lose_no_task_and_issue_none_twice(
    story: Callable[..., Story],
) -> None:
    told = story(size=20_000, ROLLOUT_LIMIT_IN_FLIGHT=str(max(5, KILL_DOCKS // 2)))
    simulator = told.simulate(KILL_DOCKS, "--speed", "20", "--json")
    tasks = UpgradeTask.objects.all()
    with ThreadPoolExecutor() as beside:
        waiting = beside.submit(told.answer, "start_upgrade", "--all", "--wait")
        for name in ("bridge", "worker"):
            wait_for_more(tasks)
            told.parts[name].kill9()
            told.parts[name].start()
        done = waiting.result()
    assert len(done["tasks"]) == KILL_DOCKS
    assert set(tasks.values_list("status", flat=True)) == {TaskStatus.OK}
    targets = [target for task in done["status"]["tasks"] for target in task["targets"]]
    assert len(targets) == 2 * KILL_DOCKS
    assert all(target["confirmed"] for target in targets)
    assert all(target["reported_version"] == target["to_version"] for target in targets)
    assert docks_say(simulator) == {"ok": KILL_DOCKS}
    assert_histories_are_complete(tasks)


def wait_for_more(tasks: UpgradeTaskQuerySet) -> None:
    """Waits until a tenth more of the upgrades are proven."""
    proven = tasks.filter(status=TaskStatus.OK)
    wanted = proven.count() + KILL_DOCKS // 10
    eventually(lambda: proven.count() >= wanted, "progress", 300)


def assert_histories_are_complete(tasks: UpgradeTaskQuerySet) -> None:
    """Each task was planned, commanded, answered, followed to the last report, and proven."""
    for task in tasks.prefetch_related("events"):
        events = list(task.events.all())
        assert {event.kind for event in events} == {"status", "command", "reply", "progress"}
        assert any(event.device_status == "ok" for event in events)
        assert {event.bid for event in events if event.bid} == {task.bid}
    history = History()
    history.extend(TaskEvent.objects.order_by("pk").iterator())
    history.assert_adds_up()
