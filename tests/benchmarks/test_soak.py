"""What the soak finds: effects that were lost or doubled, and processes that grow."""

import pytest

from benchmarks.growing import Sample, grown
from benchmarks.totals import Totals, disagreements

AGREED = Totals(
    upgrades_planned=10,
    commands_sent=10,
    commands_at_docks=10,
    upgrades_due=10,
    upgrades_at_docks=10,
    reports_of_docks=500,
    reports_in_history=300,
    reports_folded=200,
    proven=10,
    ok_at_docks=10,
    failed_at_docks=0,
    open_tasks=0,
    foreign_upgrades=0,
    wrong_versions=0,
)


def test_ends_that_agree_have_lost_and_doubled_nothing() -> None:
    assert not list(disagreements(AGREED))


def test_a_command_that_never_left_a_killed_worker_is_no_lost_effect() -> None:
    assert not list(disagreements(AGREED._replace(commands_sent=11)))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("commands_at_docks", 11, "docks got 11 commands, 10 were sent"),
        ("upgrades_at_docks", 11, "docks ran 11 upgrades instead of 10"),
        ("upgrades_at_docks", 9, "docks ran 9 upgrades instead of 10"),
        ("reports_in_history", 299, "of 500 reports the history has 499"),
        ("reports_folded", 201, "of 500 reports the history has 501"),
        ("proven", 11, "11 tasks are proven, docks completed 10"),
        ("open_tasks", 1, "1 tasks have not ended"),
        ("foreign_upgrades", 1, "somebody else's"),
        ("wrong_versions", 2, "2 devices have another version"),
    ],
)
def test_each_disagreement_is_told(field: str, value: int, sentence: str) -> None:
    told = list(disagreements(AGREED._replace(**{field: value})))
    assert len(told) == 1
    assert sentence in told[0]


@pytest.mark.parametrize("times", [0, 2])
def test_ends_that_agree_on_nothing_or_on_twice_as_much_as_was_planned_are_told(times: int) -> None:
    """As when no rollout began, or when what had succeeded was tried again."""
    counts = {name: times * value for name, value in AGREED._asdict().items()}
    told = list(disagreements(Totals(**counts | {"upgrades_planned": 10})))
    assert told == [
        f"{10 * times} upgrades were due, 10 were planned and 0 failed at docks",
        f"docks completed {10 * times} upgrades, 10 were planned",
    ]


def test_an_upgrade_that_failed_at_its_dock_may_be_tried_again() -> None:
    again = dict.fromkeys(("upgrades_due", "upgrades_at_docks"), 11)
    assert not list(disagreements(AGREED._replace(failed_at_docks=1, **again)))
    assert list(disagreements(AGREED._replace(**again)))


def life(*memory: float) -> list[Sample]:
    """A sample each minute."""
    return [Sample(60.0 * minute, found) for minute, found in enumerate(memory)]


def test_what_a_process_takes_to_warm_up_is_no_growth() -> None:
    found = grown(life(*range(10), *[100.0] * 50))
    assert found
    assert found.times == 1


def test_a_process_that_grows_after_the_warm_up_is_found() -> None:
    found = grown(life(*[100.0 + minute for minute in range(60)]))
    assert found
    assert found.times == pytest.approx(1.35, abs=0.01)


def test_a_life_of_a_few_samples_says_nothing() -> None:
    assert grown(life(100.0, 200.0, 300.0)) is None
