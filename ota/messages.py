"""What docks say about upgrades, and the command that we send (Cloud API: ota_create, ota_progress)."""

from typing import Any

from mqtt_bridge.envelope import BigInt, Data, Int, Part, Text
from ota import states
from ota.models import UpgradeTarget

METHOD = "ota_create"
MOST_DEVICES = 2

_STEPS = {"1": "download_firmware", "2": "upgrade_firmware"}


class Progress(Part, frozen=True):
    """``output.progress``; the step's name and type differ between the dialects."""

    percent: Int | None = None
    step_key: Text | Int | None = None
    current_step: Text | Int | None = None

    @property
    def step(self) -> str:
        """``download_firmware``, ``upgrade_firmware``, or the device's own word."""
        raw = self.step_key if self.step_key is not None else self.current_step
        return "" if raw is None else _STEPS.get(str(raw), str(raw))


class Extension(Part, frozen=True):
    """``output.ext``: bytes a second."""

    rate: BigInt | None = None


class Output(Part, frozen=True):
    """``output`` of a reply and of progress."""

    status: Text = ""
    progress: Progress | None = None
    ext: Extension | None = None


class Report(Data, frozen=True):
    """``data`` of ``ota_progress`` and of the reply to ``ota_create``."""

    result: Int | None = None
    output: Output | None = None

    @property
    def status(self) -> str:
        return self.output.status if self.output else ""

    @property
    def is_end(self) -> bool:
        return self.output is not None and self.output.status in states.TERMINAL

    @property
    def step(self) -> str:
        return self.output.progress.step if self.output and self.output.progress else ""

    @property
    def percent(self) -> int | None:
        """0 to 100; anything else is not believed."""
        progress = self.output.progress if self.output else None
        known = progress.percent if progress else None
        return known if known is not None and 0 <= known <= 100 else None

    @property
    def rate(self) -> int | None:
        known = self.output.ext.rate if self.output and self.output.ext else None
        return known if known is not None and known >= 0 else None


def command(targets: list[tuple[UpgradeTarget, str]]) -> dict[str, Any]:
    """``data`` of ``ota_create``: all seven fields for each target with its link."""
    return {
        "devices": [
            {
                "sn": target.device.sn,
                "product_version": target.to_version,
                "file_url": link,
                "md5": target.package.md5,
                "file_size": target.package.size,
                "file_name": target.package.file_name,
                "firmware_upgrade_type": UpgradeTarget.WIRE_TYPES[target.Type(target.upgrade_type)],
            }
            for target, link in targets
        ]
    }
