"""What docks and aircraft do, right and wrong."""

from collections.abc import Callable
from typing import Any

from django.utils import timezone

from ota import errors
from ota.models import FirmwarePackage
from tests.make import envelope, progress
from tests.ota.model.fleet import Dock
from tests.ota.model.world import World


class DocksAct(World):
    """Deeds of docks: those that are chosen by a number are taken among those that can."""

    def do(self, deed: str, number: int, code: int, is_late: bool) -> None:
        kind, _, how = deed.partition(" ")
        if kind == "answer":
            self.answer(number, how, code, is_late)
        elif kind == "on":
            self.go_on(number, how, is_late)
        elif kind == "fail":
            self.fail(number, how, code, is_late)
        elif kind == "end":
            self.finish(number, how, is_late)
        elif kind == "foreign":
            self.upgrade_by_somebody_else(number, is_late)
        elif kind == "aircraft":
            self.move_aircraft(number, how)
        else:
            getattr(self, kind)(number)

    def one(self, number: int, is_right: Callable[[Dock], Any]) -> Dock | None:
        found = [dock for dock in self.docks if dock.is_online and is_right(dock)]
        return found[number % len(found)] if found else None

    def answer(self, number: int, how: str, code: int, is_late: bool) -> None:
        if not (dock := self.one(number, lambda dock: dock.inbox)):
            return
        command = dock.inbox.pop(0)
        if how == "lose":
            return
        if dock.working or dock.is_busy:
            how, code = "refuse", errors.ALREADY_UPGRADING if dock.working else 312015
        if how == "refuse":
            self.reply(dock, command, {"result": code}, is_late=is_late)
            return
        dock.begin(command["bid"], wanted(command))
        if how != "mute":
            data = {"result": 0, "output": {"status": "in_progress" if how == "begin" else "sent"}}
            self.reply(dock, command, data, is_late=is_late)

    def answer_well(self, dock: Dock, command: dict[str, Any]) -> None:
        if dock.working:
            self.reply(dock, command, {"result": errors.ALREADY_UPGRADING})
            return
        dock.begin(command["bid"], wanted(command))
        self.reply(dock, command, {"result": 0, "output": {"status": "in_progress"}})

    def reply(
        self, dock: Dock, command: dict[str, Any], data: dict[str, Any], *, is_late: bool = False
    ) -> None:
        ids = {"tid": command["tid"], "bid": command["bid"]}
        self.say(dock, "services_reply", envelope(data, "ota_create", **ids), is_late=is_late)

    def go_on(self, number: int, status: str, is_late: bool) -> None:
        if dock := self.one(number, lambda dock: dock.working):
            self.say_progress(dock, progress(status, 40), is_late=is_late)

    def fail(self, number: int, status: str, code: int, is_late: bool) -> None:
        if dock := self.one(number, lambda dock: dock.working):
            self.say_progress(dock, progress(status, 60, result=code), is_late=is_late)
            dock.end(is_done=False)

    def finish(self, number: int, how: str, is_late: bool) -> None:
        if not (dock := self.one(number, lambda dock: dock.working)):
            return
        if how in {"prove", "only ok", "lie"}:
            self.say_progress(dock, progress("ok", 100), is_late=is_late)
        dock.end(is_done=how not in {"lie", "die"})
        if how in {"prove", "only version"}:
            self.say_versions(dock)

    def tell_version(self, number: int) -> None:
        if dock := self.one(number, bool):
            self.say_versions(dock)

    def upgrade_by_somebody_else(self, number: int, is_new: bool) -> None:
        dock = self.one(number, lambda dock: not dock.working and not dock.is_busy)
        newest = FirmwarePackage.objects.order_by("-version_number").first()
        if dock and newest:
            machines = [machine for machine in (dock, dock.aircraft) if machine]
            bid = f"theirs-{timezone.now():%H%M%S}-{len(self.past)}"
            dock.begin(bid, {m.sn: newest.version if is_new else m.version for m in machines})
            self.say_progress(dock, progress("in_progress", 1))

    def become_busy(self, number: int) -> None:
        if dock := self.one(number, lambda dock: not dock.working):
            dock.is_busy = not dock.is_busy

    def go_away(self, number: int) -> None:
        self.docks[number].is_online = False

    def come_back(self, number: int) -> None:
        dock = self.docks[number]
        if not dock.is_online and self.is_listening:
            dock.is_online = True
            self.say_topology(dock)
            self.say_versions(dock)

    def repeat(self, place: int) -> None:
        """The broker delivers something once more, or a second time late."""
        if self.past and self.is_listening:
            self.deliver(self.past[-1 - place % len(self.past)])

    def arrive_late(self, place: int) -> None:
        if self.late and self.is_listening:
            self.deliver(self.late.pop(place % len(self.late)))

    # Aircraft

    def move_aircraft(self, number: int, how: str) -> None:
        if not (dock := self.one(number, lambda dock: dock.aircraft and not dock.working)):
            return
        aircraft = dock.aircraft
        assert aircraft
        if how == "fly":
            aircraft.is_on = aircraft.is_flying = True
            self.say_topology(dock)
        elif how == "land":
            aircraft.is_flying = False
        elif how in {"sleep", "wake"}:
            aircraft.is_on, aircraft.is_flying = how == "wake", False
            self.say_topology(dock)
            self.say_versions(dock)
        elif how == "vanish":
            aircraft.is_on = False  # and nobody says so
        elif how == "drain":
            aircraft.battery = 12 if aircraft.battery > 20 else 90
        elif how == "lag":
            aircraft.lags = not aircraft.lags
            self.say_versions(dock)
        else:
            self.swap(dock, self.docks[number])

    def swap(self, dock: Dock, other: Dock) -> None:
        """Two docks get each other's aircraft, or one gives its own away; both say so if they can."""
        if other is not dock and other.is_online and not other.working:
            dock.aircraft, other.aircraft = other.aircraft, dock.aircraft
            for each in (dock, other):
                self.say_topology(each)
                self.say_versions(each)


def wanted(command: dict[str, Any]) -> dict[str, str]:
    """The versions that a command names, by serial number."""
    return {each["sn"]: each["product_version"] for each in command["data"]["devices"]}
