"""What docks and aircraft really do, whatever our rows say."""

import dataclasses
from typing import Any

from fleet.models import Device


@dataclasses.dataclass(eq=False)
class Machine:
    """A device with its firmware; ``lags`` asks for a consistency upgrade."""

    device: Device
    version: str
    lags: bool = False

    @property
    def sn(self) -> str:
        return self.device.sn

    @property
    def firmware(self) -> dict[str, Any]:
        return {"firmware_version": self.version, "compatible_status": int(self.lags)}


@dataclasses.dataclass(eq=False)
class Aircraft(Machine):
    is_on: bool = True
    is_flying: bool = False
    battery: int = 90

    @property
    def osd(self) -> dict[str, Any]:
        battery = {"capacity_percent": self.battery}
        return {"mode_code": 5 if self.is_flying else 0, "battery": battery}


@dataclasses.dataclass(eq=False)
class Dock(Machine):
    """A dock; ``told`` is what we have heard that decides on a command, ``heard`` when."""

    aircraft: Aircraft | None = None
    is_online: bool = True
    is_busy: bool = False
    inbox: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    working: str = ""  # the bid that it works on
    wanted: dict[str, str] = dataclasses.field(default_factory=dict)
    told_work: bool = False
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def mode(self) -> int:
        return 3 if self.working else 4 if self.is_busy else 0

    @property
    def named(self) -> Aircraft | None:
        """The aircraft that its topology names: one that is on."""
        return self.aircraft if self.aircraft and self.aircraft.is_on else None

    @property
    def topology(self) -> dict[str, Any]:
        named = {"sn": self.named.sn, "domain": 0, "type": 91, "sub_type": 1} if self.named else {}
        return {"domain": 3, "type": 2, "sub_type": 0, "sub_devices": [named] if named else []}

    @property
    def osd(self) -> dict[str, Any]:
        found = {"mode_code": self.mode, "flighttask_step_code": 5, "emergency_stop_state": 0}
        if not (aircraft := self.aircraft):
            return found | {"drone_in_dock": 0}
        sub = {"device_sn": aircraft.sn, "device_online_status": int(aircraft.is_on)}
        return found | {
            "drone_in_dock": int(not aircraft.is_flying),
            "drone_charge_state": {"capacity_percent": aircraft.battery},
            "sub_device": sub | {"device_paired": 1},
        }

    def begin(self, bid: str, wanted: dict[str, str]) -> None:
        self.working, self.wanted, self.told_work = bid, wanted, False

    def end(self, *, is_done: bool) -> None:
        """Stops working; what is done has reached those that are there."""
        for machine in (self, self.aircraft):
            if is_done and machine and machine.sn in self.wanted:
                machine.version, machine.lags = self.wanted[machine.sn], False
        self.working, self.told_work = "", False


@dataclasses.dataclass
class Said:
    """Something that a dock published; it may come late, and more than once."""

    dock: Dock
    topic: str
    payload: dict[str, Any]
    bid: str = ""

    @property
    def is_work(self) -> bool:
        """Whether it tells that the dock works on what it was told to do."""
        data = self.payload["data"]
        is_end = data.get("output", {}).get("status") in _ENDS
        is_refusal = self.topic.endswith("_reply") and data["result"]
        return not is_end and not is_refusal


_ENDS = {"ok", "failed", "rejected", "canceled", "timeout"}
