"""What operators do, to rollouts and to the library."""

import contextlib
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from fleet.models import Device
from ota import packages, rollouts
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.rollouts import InvalidPolicy, NothingToUpgrade, NotPossible, Options
from ota.states import PackageState
from tests.make import make_package
from tests.ota.model.world import World, later


class OperatorsAct(World):
    """Rollouts are chosen by a number among the newest ones that have not ended."""

    author: User
    second: User
    numbers: Iterator[int]

    def launch(
        self,
        policy: dict[str, Any],
        times: tuple[int | None, int | None],
        chosen: set[int],
        what: str,
    ) -> None:
        """``what``: ``docks``, ``aircraft``, ``both``, or ``pilot`` for both with a pilot."""
        docks = [self.docks[number] for number in sorted(chosen)]
        aircraft = [dock.aircraft.sn for dock in docks if dock.aircraft]
        sns = [dock.sn for dock in docks] if what != "aircraft" else []
        options = Options(
            starts_at=later(times[0]),
            deadline_at=later(times[1]),
            policy=policy,
            pilot=sns[:1] if what == "pilot" else (),
        )
        devices = Device.objects.filter(sn__in=sns if what == "docks" else [*sns, *aircraft])
        with contextlib.suppress(NothingToUpgrade, InvalidPolicy):
            rollouts.launch(devices, options, timezone.now(), self.author)

    def rollout(self, place: int) -> Rollout | None:
        found = list(Rollout.objects.order_by("finished_at", "-pk")[:4])
        return found[place % len(found)] if found else None

    def press(self, place: int, verb: str) -> None:
        if rollout := self.rollout(place):
            with contextlib.suppress(NotPossible):
                getattr(rollouts, verb)(rollout, timezone.now(), self.author)

    def retry_one(self) -> None:
        failed = UpgradeTask.objects.needing_attention().order_by("-pk").first()
        if failed:
            with contextlib.suppress(NotPossible):
                rollouts.retry(failed.rollout, timezone.now(), self.author, [failed.pk])

    def decide(self, place: int, is_approved: bool) -> None:
        if rollout := self.rollout(place):
            verb = rollouts.approve if is_approved else rollouts.deny
            with contextlib.suppress(NotPossible):
                verb(rollout, timezone.now(), self.second)

    def alter(self, place: int, fields: dict[str, Any]) -> None:
        if rollout := self.rollout(place):
            with contextlib.suppress(NotPossible, InvalidPolicy):
                rollouts.change(rollout, fields, timezone.now(), self.author)

    def change_library(self, what: str) -> None:
        newest = FirmwarePackage.objects.order_by("-version_number").first()
        if newest is None or what == "add":
            self.add_package()
        elif what == "withdraw":
            packages.withdraw(newest, timezone.now())
            self.add_package()
        else:
            state = PackageState.CHECKING if what == "check" else PackageState.AVAILABLE
            known = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN)
            known.update(state=state)

    def add_package(self) -> None:
        if (number := next(self.numbers)) < 100:
            make_package(f"20.{number:02d}.0000")
