"""An upgrade that the server did not order: somebody on site, or another tool, does it."""

from typing import Literal

from simulator import packages, wire
from simulator.devices import Device
from simulator.orders import Order, Target
from simulator.rig import Rig
from simulator.upgrade import Meter, Upgrade

STARTS_AFTER = 20.0  # simulated seconds
DOWNLOAD = 20.0  # simulated seconds
_REGULAR: Literal[3] = 3


async def upgrade_by_somebody_else(rig: Rig) -> Upgrade | None:
    """Wait, then return an upgrade to the newest versions; None when there is nothing to do by then."""
    await rig.clock.sleep(STARTS_AFTER)
    outdated = [device for device in rig.pair.powered if device.version != _newest(device)]
    if not outdated or rig.pair.is_upgrading:
        return None
    order = Order(tuple(_target(device) for device in outdated))
    rig.pair.begin(order.sns)

    async def pretend(meter: Meter) -> None:
        await rig.clock.sleep(DOWNLOAD)
        meter.add(meter.wanted)

    return Upgrade(rig, order, wire.new_id(), fetch=pretend)


def _newest(device: Device) -> str:
    return packages.series_of(device.model_key).newer.version


def _target(device: Device) -> Target:
    version = _newest(device)
    return Target(device.sn, version, "http://nowhere.invalid/", "0" * 32, 1, "any.zip", _REGULAR)
