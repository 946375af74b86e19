"""Shows rollouts, and follows one to its end: live on a terminal, silent elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.utils import timezone
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from console.counts import count
from console.terminal import table, visible, wrong_call
from ota import rollouts, status
from ota.models import Rollout
from ota.states import IN_FLIGHT, TERMINAL

PAUSE = 0.5  # s between two looks
MOST_ROWS = 15  # of those that are upgrading; a terminal has no more room
_WIDTH = 24  # columns of a bar
INTERRUPTED = 130  # as shells have it

Show = Callable[[dict[str, int]], None]
Tell = Callable[[str], None]


def find(pk: int) -> Rollout:
    """The rollout of a number; an unknown one ends the command as a wrong call."""
    rollout = Rollout.objects.filter(pk=pk).first()
    return rollout or wrong_call(f"Unknown rollout: {pk}")


def title(rollout: Rollout) -> Text:
    """A rollout's number, name and status, and why it is paused."""
    why = f" ({visible(rollout.pause_reason)})" if rollout.pause_reason else ""
    return Text(f"Rollout {rollout.pk}, {visible(rollout.name)}: {rollout.status}{why}")


def watch(
    rollout: Rollout,
    console: Console | None,
    seconds: float | None = None,
    tell: Tell = lambda text: None,
) -> bool:
    """Waits until all tasks have ended, and shows them on the way if the console is a terminal.

    Returns whether they have; not if ``seconds`` were over before. What keeps the rollout from going
    on by itself stands there on a terminal, and is told once each time elsewhere. Ctrl-C ends the
    command, and not the rollout.
    """
    try:
        return _follow(rollout, console, seconds, tell)
    except KeyboardInterrupt:
        tell(f"No longer waiting; rollout {rollout.pk} goes on.")
        raise SystemExit(INTERRUPTED) from None


def _follow(rollout: Rollout, console: Console | None, seconds: float | None, tell: Tell) -> bool:
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    told = ""
    with _shown(rollout, console) as show:
        while True:
            rollout.refresh_from_db(fields=["status", "pause_reason"])
            held = held_back(rollout)
            if held and held != told and not _is_live(console):
                tell(f"Rollout {rollout.pk} {held}")
            told = held
            found = status.counts(rollout)
            show(found)
            if status.is_over(found):
                rollouts.finish(timezone.now())  # or it would read as running until the next tick
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(min(PAUSE, max(0.0, until - time.monotonic())))


def held_back(rollout: Rollout) -> str:
    """What a rollout needs a person for, to be read after its number; empty if it goes on by itself."""
    if rollout.status == Rollout.Status.NEEDS_APPROVAL:
        return "needs approval by somebody else than its author."
    if rollout.status == Rollout.Status.PAUSED:
        return f"is paused: {visible(rollout.pause_reason)}"
    return ""


def _is_live(console: Console | None) -> bool:
    return console is not None and console.is_terminal


@contextmanager
def _shown(rollout: Rollout, console: Console | None) -> Iterator[Show]:
    if console is None or not _is_live(console):
        yield lambda found: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda found: live.update(_view(rollout, found), refresh=True)


def _view(rollout: Rollout, found: dict[str, int]) -> RenderableType:
    """How far all are, and those that are upgrading now."""
    running = rollout.tasks.filter(status__in=IN_FLIGHT).order_by("pk")[:MOST_ROWS]
    tasks = running.select_related("gateway", "wave").with_targets()
    held = held_back(rollout)
    return Group(
        Text(visible(rollout.name) + (f" {held}" if held else ""), style="bold"),
        summary(found, with_bar=True),
        tasks_table(status.of_tasks(tasks, rollout), with_bars=True),
    )


def summary(found: dict[str, int], *, with_bar: bool = False) -> RenderableType:
    """How many tasks have each status, as ``5 tasks: 3 ok, 2 pending``."""
    total, ended = sum(found.values()), sum(found[each] for each in TERMINAL)
    parts = ", ".join(f"{number:,} {name}" for name, number in found.items() if number)
    text = Text(f"{count(total, 'task')}: {parts}")
    if not with_bar:
        return text
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total or 1, ended, width=_WIDTH), text)
    return grid


def waves_table(waves: list[status.Document]) -> Table:
    """One row a wave."""
    return table(
        ["Wave", "Title", "Opened", "Docks", "Finished", "Proven", "Failed", "Gate"],
        [
            (
                wave["number"],
                wave["title"],
                wave["opened_at"] or "not yet",
                *(f"{wave[name]:,}" for name in ("tasks", "finished", "proven", "failed")),
                f"{wave['gate']} %",
            )
            for wave in waves
        ],
    )


def tasks_table(tasks: list[status.Document], *, with_bars: bool = False) -> Table:
    """One row a task."""
    return table(
        ["Dock", "Wave", "Status", "Progress", "Step", "Attempt", "Upgrades", "Remarks"],
        [
            (
                task["gateway_sn"],
                task["wave"],
                task["status"],
                _progress(task["percent"], with_bar=with_bars),
                task["step"],
                task["attempt"],
                "; ".join(_upgrade(target) for target in task["targets"]),
                _remarks(task),
            )
            for task in tasks
        ],
    )


def _remarks(task: status.Document) -> str:
    """What was said about a task and, while it is not over, what it waits for."""
    waits_for = "; ".join(reason["text"] for reason in task["waits_for"])
    said = task["advice"] or task["message"]
    return f"{said.rstrip('.')}. Waits: {waits_for}" if said and waits_for else said or waits_for


def _progress(percent: int | None, *, with_bar: bool) -> object:
    if with_bar:
        return ProgressBar(100, percent or 0, width=_WIDTH)
    return None if percent is None else f"{percent} %"


def _upgrade(target: status.Document) -> str:
    proof = ", proven" if target["confirmed"] else ""
    return f"{target['sn']} {target['from_version']} to {target['to_version']} ({target['upgrade_type']}{proof})"
