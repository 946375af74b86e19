"""A dock and its aircraft as they are now."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from simulator import faults
from simulator.memory import Memory
from simulator.specs import DockSpec

UPGRADING_DOCK = 3
UPGRADING_AIRCRAFT = 13


@dataclass
class Device:
    """One SN with its firmware. DJI Cloud API: firmware_version, compatible_status, firmware_upgrade_status."""

    sn: str
    model_key: str
    version: str
    compatible_status: int = 0
    is_upgrading: bool = False

    @property
    def type_numbers(self) -> tuple[int, int]:
        """Return `type` and `sub_type` of the model key."""
        _, type_, sub_type = self.model_key.split("-")
        return int(type_), int(sub_type)

    @property
    def firmware(self) -> dict[str, object]:
        """Return the three firmware properties as `state` carries them."""
        return {
            "firmware_version": self.version,
            "compatible_status": self.compatible_status,
            "firmware_upgrade_status": int(self.is_upgrading),
        }


@dataclass
class Pair:
    """The dock, its aircraft, and what the osd says about them."""

    dock: Device
    aircraft: Device
    condition: faults.Condition = faults.FINE
    is_aircraft_on: bool = True
    targets: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_spec(cls, spec: DockSpec, memory: Memory) -> Self:
        """Return the pair of `spec` with the firmware that `memory` recalls."""
        dock = Device(spec.sn, spec.model_key, spec.version)
        aircraft = Device(
            spec.aircraft_sn,
            spec.aircraft_model_key,
            spec.aircraft_version,
            spec.aircraft_compatible_status,
        )
        for device in (dock, aircraft):
            if known := memory.recall(device.sn):
                device.version, device.compatible_status = known.version, known.compatible_status
        return cls(dock, aircraft, faults.find(spec.fault).condition)

    @property
    def sns(self) -> frozenset[str]:
        return frozenset((self.dock.sn, self.aircraft.sn))

    @property
    def is_upgrading(self) -> bool:
        return bool(self.targets)

    @property
    def mode_code(self) -> int:
        """Return the dock's `mode_code`: 3 while upgrading, else what its condition says."""
        return UPGRADING_DOCK if self.is_upgrading else self.condition.mode_code

    @property
    def aircraft_mode_code(self) -> int:
        return UPGRADING_AIRCRAFT if self.aircraft.is_upgrading else 0

    @property
    def powered(self) -> list[Device]:
        """Return the devices that can report now."""
        return [self.dock, self.aircraft] if self.is_aircraft_on else [self.dock]

    def device(self, sn: str) -> Device:
        return self.dock if sn == self.dock.sn else self.aircraft

    def begin(self, sns: Iterable[str]) -> None:
        """Mark the devices `sns` as upgrading."""
        self.targets = frozenset(sns)
        for sn in self.targets:
            self.device(sn).is_upgrading = True

    def end(self) -> None:
        """Mark that no upgrade runs any more."""
        self.targets = frozenset()
        for device in (self.dock, self.aircraft):
            device.is_upgrading = False
