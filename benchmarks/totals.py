"""What a fleet of docks and the database say about the same upgrades, and whether it agrees."""

from collections.abc import Iterable
from typing import NamedTuple


class Totals(NamedTuple):
    """Counts of both ends once everything is at rest; docks count what came and what they did.

    Each command, report and upgrade counts once, however often it was delivered. What was planned
    is told by neither of them.
    """

    upgrades_planned: int
    commands_sent: int
    commands_at_docks: int
    upgrades_due: int
    upgrades_at_docks: int
    reports_of_docks: int
    reports_in_history: int
    reports_folded: int
    proven: int
    ok_at_docks: int
    failed_at_docks: int
    open_tasks: int
    foreign_upgrades: int
    wrong_versions: int


def disagreements(totals: Totals) -> Iterable[str]:
    """One sentence for each effect that was lost or doubled; none if all is well.

    A command may fail to go out where the worker was killed in between: it is then sent anew, as
    another one. So docks may have got fewer than were sent, and never more. An upgrade that failed at
    its dock may be tried again; no other is due twice.
    """
    t = totals
    if t.upgrades_due != t.upgrades_planned + t.failed_at_docks:
        yield (
            f"{t.upgrades_due} upgrades were due, {t.upgrades_planned} were planned and "
            f"{t.failed_at_docks} failed at docks"
        )
    if t.ok_at_docks != t.upgrades_planned:
        yield f"docks completed {t.ok_at_docks} upgrades, {t.upgrades_planned} were planned"
    if t.commands_at_docks > t.commands_sent:
        yield f"docks got {t.commands_at_docks} commands, {t.commands_sent} were sent"
    if t.upgrades_at_docks != t.upgrades_due:
        yield f"docks ran {t.upgrades_at_docks} upgrades instead of {t.upgrades_due}"
    kept = t.reports_in_history + t.reports_folded
    if kept != t.reports_of_docks:
        yield f"of {t.reports_of_docks} reports the history has {kept}, folded ones included"
    if t.proven != t.ok_at_docks:
        yield f"{t.proven} tasks are proven, docks completed {t.ok_at_docks}"
    if t.open_tasks:
        yield f"{t.open_tasks} tasks have not ended"
    if t.foreign_upgrades:
        yield f"{t.foreign_upgrades} upgrades are taken for somebody else's"
    if t.wrong_versions:
        yield f"{t.wrong_versions} devices have another version than we know"
