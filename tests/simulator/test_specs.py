"""Which docks a plan holds."""

import pytest

from simulator import faults, packages
from simulator.fleet import plan


def newer(model_key: str) -> str:
    return packages.series_of(model_key).newer.version


def test_the_same_plan_twice_is_the_same() -> None:
    assert plan(30, {"busy": 2}) == plan(30, {"busy": 2})


def test_generations_take_turns_and_speak_their_dialects() -> None:
    docks = plan(6)
    assert [dock.model_key for dock in docks[:3]] == ["3-1-0", "3-2-0", "3-3-0"]
    assert [dock.dialect for dock in docks] == ["sdk", "docs", "v115"] * 2


def test_serial_numbers_are_unique_alphanumeric_and_short() -> None:
    sns = [sn for dock in plan(1000) for sn in (dock.sn, dock.aircraft_sn)]
    assert len(set(sns)) == 2000
    assert all(sn.isalnum() and "SIM" in sn and len(sn) <= 20 for sn in sns)


def test_both_aircraft_models_of_each_generation_occur() -> None:
    keys = {dock.aircraft_model_key for dock in plan(6)}
    assert keys == {"0-67-0", "0-67-1", "0-91-0", "0-91-1", "0-100-0", "0-100-1"}


def test_healthy_docks_start_below_the_newest_release() -> None:
    for dock in plan(24):
        assert dock.version < newer(dock.model_key)
        assert dock.aircraft_version < newer(dock.aircraft_model_key)


def test_some_docks_run_the_older_release_already() -> None:
    older = packages.SERIES["DOCK2"].older.version
    assert {dock.version == older for dock in plan(24) if dock.model_key == "3-2-0"} == {
        True,
        False,
    }


def test_consistency_docks_run_the_newest_release_and_ask_for_an_upgrade() -> None:
    (dock,) = plan(1, {"consistency": 1})
    assert (dock.version, dock.aircraft_version) == ("10.01.0205", "14.03.0110")
    assert dock.aircraft_compatible_status == 1


def test_three_docks_with_a_fault_are_of_three_generations() -> None:
    faulty = [dock for dock in plan(12, {"busy": 3}) if dock.fault == "busy"]
    assert {dock.model_key for dock in faulty} == {"3-1-0", "3-2-0", "3-3-0"}


def test_no_fault_is_no_fault() -> None:
    assert [dock.fault for dock in plan(2, {"no-fault": 2})] == [None, None]


def test_a_series_can_start_with_a_version_of_ones_own() -> None:
    docks = plan(3, from_versions={"DOCK2": "10.01.3204"})
    assert docks[1].version == "10.01.3204"
    assert docks[1].aircraft_version == packages.SERIES["M3D"].factory


@pytest.mark.parametrize(
    ("docks", "faulty", "versions", "message"),
    [
        (0, {}, {}, "at least 1 dock"),
        (3, {"tired": 1}, {}, "Unknown fault 'tired'"),
        (3, {"busy": 2, "4g": 2}, {}, "4 faults do not fit 3 docks"),
        (3, {"busy": -1}, {}, "cannot have -1 docks"),
        (3, {}, {"DOCK9": "10.01.3204"}, "Unknown series 'DOCK9'"),
        (3, {}, {"DOCK2": "10.01.32.04"}, "not in the form"),
    ],
)
def test_an_impossible_plan_says_why(
    docks: int, faulty: dict[str, int], versions: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(docks, faulty, from_versions=versions)


def test_the_six_passing_faults_clear() -> None:
    passing = {name for name, fault in faults.FAULTS.items() if fault.clears}
    assert passing == {"busy", "offline", "low-battery", "aircraft-out", "emergency-stop", "4g"}


def test_the_docks_of_a_second_process_are_the_next_ones() -> None:
    assert (*plan(4), *plan(3, first=5)) == plan(7)
