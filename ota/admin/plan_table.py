"""The whole plan of a preview as a table for other programs: the page shows its first rows."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from console import sheets
from fleet.models import Device
from ota import needs
from ota.admin.preview import how
from ota.needs import Reason
from ota.rollouts import Excluded, Plan, PlannedTask

COLUMNS = (
    *("dock", "callsign", "site", "wave", "device", "model", "how"),
    *("from_version", "to_version", "waits_for", "left_out"),
)

Row = dict[str, Any]


def as_csv(plan: Plan) -> Iterator[str]:
    """What goes in the order of the plan, then what is left out; in pieces of some rows, no queries."""
    yield sheets.lines([COLUMNS])
    rows = chain(chain.from_iterable(map(_planned, plan.tasks)), map(_left_out, plan.excluded))
    while piece := list(islice(rows, sheets.PIECE)):
        yield sheets.lines([row.get(name) for name in COLUMNS] for row in piece)


def _planned(task: PlannedTask) -> Iterable[Row]:
    waits = {"wave": task.wave, "waits_for": _texts(task.waits_for)}
    for target in task.targets:
        goes = {"how": how(target), "to_version": target.package.version}
        yield _device(target.device, task.gateway) | waits | goes


def _left_out(excluded: Excluded) -> Row:
    dock = needs.gateway_of(excluded.device)
    return _device(excluded.device, dock) | {"left_out": excluded.reason.text}


def _device(device: Device, dock: Device | None) -> Row:
    stands = dock or device
    return {
        "dock": dock.sn if dock else "",
        "callsign": stands.callsign,
        "site": stands.site.name if stands.site else "",
        "device": device.sn,
        "model": device.model.name if device.model else "",
        "from_version": device.firmware_version,
    }


def _texts(reasons: Iterable[Reason]) -> str:
    return "; ".join(reason.text for reason in reasons)
