"""The steps: each rule is one, and what must hold is looked at after it."""

import contextlib
import datetime as dt
import itertools
import sys
from collections import Counter
from typing import Any

from django.contrib.auth.models import User
from django.test import override_settings
from django.utils import timezone
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.models import Organization, Site
from ota import rollouts, states
from ota.models import OrganizationPolicy, Rollout, UpgradeTask
from ota.rollouts import NotPossible
from tests.make import make_aircraft, make_dock, make_listening, make_organization, progress
from tests.ota.model import choices
from tests.ota.model.choices import CODES, DOCKS
from tests.ota.model.docks import DocksAct
from tests.ota.model.fleet import Aircraft, Dock
from tests.ota.model.judges import Judges
from tests.ota.model.operators import OperatorsAct
from tests.ota.model.world import later

ZONES = ("Europe/Zurich", "America/Los_Angeles")
WITH_AIRCRAFT = 4
# Of all examples: how many steps there were, and how many commands for one device and for two.
COUNTED: Counter[str] = Counter()


class Model(DocksAct, OperatorsAct, Judges, RuleBasedStateMachine):
    """Hypothesis chooses among the rules alike, so the usual steps do much and the rare ones share one."""

    @initialize(
        approval=st.sampled_from([None, None, 3]),
        system=st.sampled_from([0, 0, 3]),
        policy=choices.policies,
    )
    def set_up(self, approval: int | None, system: int, policy: dict[str, Any]) -> None:
        self.exits.enter_context(override_settings(SYSTEM_LIMIT_IN_FLIGHT=system))
        organization = make_organization()
        if approval:
            OrganizationPolicy.objects.create(
                organization=organization, approval_above=approval, limit_in_flight=4
            )
        self.make_docks(organization)
        self.author, self.second = (User.objects.create_user(name) for name in ("olga", "otto"))
        self.session = make_listening()
        self.numbers = itertools.count(1)
        self.add_package()
        self.beat()
        self.launch(policy, (None, None), set(range(DOCKS)), "both")

    def make_docks(self, organization: Organization) -> None:
        sites = [
            Site.objects.create(organization=organization, name=zone, time_zone=zone)
            for zone in ZONES
        ]
        self.docks = []
        for number, site in enumerate([*sites, *sites, sites[0], None]):
            device = make_dock(organization=organization, site=site)
            dock = Dock(device, device.firmware_version)
            if number < WITH_AIRCRAFT:
                aircraft = make_aircraft(device)
                dock.aircraft = Aircraft(aircraft, aircraft.firmware_version)
            self.docks.append(dock)
        self.by_sn = {dock.sn: dock for dock in self.docks}

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else a step has failed already, which is to be seen
                self.heal()
        finally:
            COUNTED.update(self.sent)
            self.exits.close()

    # Steps

    @rule(hands=st.sets(choices.docks), seconds=st.sampled_from([2, 12, 61]))
    def live_well(self, hands: set[int], seconds: float) -> None:
        """Docks do what they should, and everything is there."""
        self.broker = "up"
        self.change_bridge(True)
        for number in range(DOCKS):
            self.come_back(number)
            self.move_aircraft(number, "land")
        for number in sorted(hands):
            self.answer(number, "begin", 0, False)
            self.finish(number, "prove", False)
        self.go_on_with("go", seconds)

    @rule(
        hands=st.sets(choices.docks, min_size=1),
        how=st.sampled_from(["refuse", "mute", "begin", "begin", "begin"]),
        code=st.sampled_from(CODES),
        seconds=st.sampled_from([2, 61, 400]),
    )
    def go_wrong(self, hands: set[int], how: str, code: int, seconds: float) -> None:
        """Several docks refuse, or fail, with the same code."""
        for number in sorted(hands):
            self.answer(number, how, code, False)
            self.fail(number, "failed", code, False)
        self.go_on_with("go", seconds)

    @rule(
        deeds=st.lists(
            st.tuples(choices.docks, choices.deeds, st.sampled_from(CODES), st.booleans()),
            max_size=6,
        ),
        seconds=st.sampled_from([1, 3, 12, 61, 400]),
        how=st.sampled_from(["go", "go", "twice", "keep"]),
    )
    def live(self, deeds: list[tuple[int, str, int, bool]], seconds: float, how: str) -> None:
        """Docks do anything, in any order, and the workers go on."""
        for number, deed, code, is_late in deeds:
            self.do(deed, number, code, is_late)
        self.go_on_with(how, seconds)

    def go_on_with(self, how: str, seconds: float) -> None:
        self.tick(seconds, how)
        if how != "keep":
            self.check_what_waits()

    @rule(
        place=st.integers(0, 3),
        verb=st.sampled_from(choices.VERBS),
        policy=choices.policies,
        minutes=choices.minutes,
        name=st.sampled_from(["limit_in_flight", "limit_per_site", "windows", "max_failed"]),
    )
    def operate(
        self, place: int, verb: str, policy: dict[str, Any], minutes: int | None, name: str
    ) -> None:
        if verb == "change":
            self.alter(place, {name: policy[name]})
        elif verb in {"starts_at", "deadline_at"}:
            self.alter(place, {verb: later(minutes)})
        elif verb in {"approve", "deny"}:
            self.decide(place, verb == "approve")
        elif verb == "retry one":
            self.retry_one()
        else:
            self.press(place, verb)

    @rule(
        policy=choices.policies,
        times=st.tuples(choices.minutes, choices.minutes),
        chosen=st.sets(choices.docks, min_size=2),
        what=st.sampled_from(["docks", "aircraft", "both", "both", "pilot"]),
    )
    def start(
        self,
        policy: dict[str, Any],
        times: tuple[int | None, int | None],
        chosen: set[int],
        what: str,
    ) -> None:
        self.launch(policy, times, chosen, what)

    @rule(what=st.sampled_from(choices.TROUBLES), place=st.integers(0, 3))
    def meet_trouble(self, what: str, place: int) -> None:
        kind, _, how = what.partition(" ")
        if kind == "wait":
            self.pass_time(float(how))
        elif kind == "jump":
            self.jump(int(how))
        elif kind == "bridge":
            self.change_bridge(not self.is_listening)
        elif kind == "broker":
            self.broker = how if self.broker == "up" else "up"
        else:
            self.change_library(how)
        self.work_late(place)

    @invariant()
    def hold(self) -> None:
        COUNTED["steps"] += 1
        self.history_adds_up()
        self.what_has_ended_stays()

    # The end

    def heal(self) -> None:
        """Everybody does what they should, and all that is open ends."""
        self.broker, self.queue = "up", []
        self.exits.enter_context(override_settings(SYSTEM_LIMIT_IN_FLIGHT=0))
        self.change_bridge(True)
        self.change_library("right")
        for number in range(DOCKS):
            self.heal_dock(number)
        while self.late:
            self.deliver(self.late.pop(0))
        for number in range(120):
            if not UpgradeTask.objects.open().exists():
                break
            self.heal_once(20 if number < 10 else 120)
        self.tick(61, "go")
        assert not UpgradeTask.objects.open().exists(), self.left_over()
        assert not Rollout.objects.filter(finished_at=None).exists()
        self.history_adds_up()

    def heal_dock(self, number: int) -> None:
        dock = self.docks[number]
        dock.is_busy = False
        if dock.aircraft:
            dock.aircraft.is_on, dock.aircraft.is_flying, dock.aircraft.battery = True, False, 90
        self.come_back(number)
        self.say_topology(dock)

    def heal_once(self, seconds: float) -> None:
        now = timezone.now()
        for rollout in Rollout.objects.filter(finished_at=None):
            self.free(rollout, now)
        for dock in self.docks:
            while dock.inbox:
                self.answer_well(dock, dock.inbox.pop(0))
        self.pass_time(seconds)
        for dock in self.docks:
            if dock.working:
                self.say_progress(dock, progress("ok", 100))
                dock.end(is_done=True)
            self.say_versions(dock)
        self.tick_now()
        self.check_what_waits()

    def free(self, rollout: Rollout, now: dt.datetime) -> None:
        if rollout.status == Rollout.Status.NEEDS_APPROVAL:
            rollouts.approve(rollout, now, self.second)
        rollouts.resume(rollout, now)
        if rollout.status in states.UNFINISHED:
            freed = {"windows": "", "starts_at": None, "deadline_at": None}
            rollouts.change(rollout, freed, now)
        with contextlib.suppress(NotPossible):
            while rollouts.open_next_wave(rollout, now):
                pass
