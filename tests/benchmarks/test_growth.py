"""The model of growth: its two simulations, and the chart."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import chart, growth
from benchmarks.growth import GB, PACKAGES, Fleet


def test_the_uplink_decides_how_many_nights_a_rollout_takes() -> None:
    slow = Fleet(docks=1000, uplink=1000 * PACKAGES / (2 * 8 * 3600), in_flight=100)
    assert growth.roll_out(slow).nights in {2, 3}
    assert growth.roll_out(slow._replace(uplink=100 * GB)).nights == 1


def test_a_rollout_never_sends_more_than_the_uplink() -> None:
    given = growth.fleet(10_000)
    assert growth.roll_out(given).peak_uplink <= given.uplink * 1.001


def test_history_grows_slowly_once_the_oldest_reports_are_folded() -> None:
    sizes = growth.history(growth.fleet(10_000))
    young, old = sizes[89] - sizes[88], sizes[200] - sizes[199]
    assert old == pytest.approx(sizes[400] - sizes[399])
    assert old < young / 5


@pytest.mark.parametrize("part", ["bridge", "broker", "database"])
def test_ten_times_the_docks_cost_about_ten_times_as_much(part: str) -> None:
    few, many = (getattr(growth.need(growth.fleet(n)), part) for n in (10_000, 100_000))
    assert many / few == pytest.approx(10, rel=0.1)


def test_bridges_that_get_messages_in_turn_look_at_nearly_all_of_them() -> None:
    by_topic, in_turn = (
        growth.need(growth.fleet(100_000)._replace(by_topic=by_topic)) for by_topic in (True, False)
    )
    assert growth.osd_cost(2, by_topic=False) == pytest.approx(44, abs=1)
    assert growth.osd_cost(14, by_topic=False) == pytest.approx(85, abs=1)
    assert in_turn.bridge / by_topic.bridge > 2
    assert in_turn.bridges / by_topic.bridges > 2


def test_a_single_bridge_costs_the_same_however_messages_are_dealt() -> None:
    costs = [growth.osd_cost(1, by_topic=by_topic) for by_topic in (True, False)]
    assert costs[0] == costs[1]


def test_the_chart_has_a_line_and_a_name_for_each_part() -> None:
    root = ET.fromstring(chart.logarithmic("A & B", ["1", "10"], {"a": [1, 10], "b": [2, 5]}))  # noqa: S314
    names = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert {"A & B", "a", "b", "1", "10"} <= names
