"""What was decided for a rollout, in words."""

import datetime as dt

import pytest

from ota import terms
from ota.models import Rollout
from tests.make import make_rollout, make_wave

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (19.4, "19 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h")),
        *((3725, "1 h 2 min"), (100 * 3600, "100 h")),
    ],
)
def test_how_long_something_took_is_told_with_its_units(seconds: float, words: str) -> None:
    assert terms.lasted(dt.timedelta(seconds=seconds)) == words


def told(rollout: Rollout) -> dict[str, str]:
    return {term.name: term.text for term in terms.of(rollout)}


def test_a_pilot_alone_makes_two_waves_with_a_gate_between() -> None:
    rollout = make_rollout(gate_first=90)
    assert told(rollout)["Waves"] == "all at once"
    assert "Next wave" not in told(rollout)
    make_wave(rollout, 2)
    assert told(rollout)["Waves"] == "the pilot, then all others"
    assert told(rollout)["Next wave"].startswith("90 % of the first proven")
