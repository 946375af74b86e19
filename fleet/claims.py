"""Whose a dock is: what another dock says of it binds nothing."""

import logging

from fleet.models import Device, Organization
from mqtt_bridge import metrics

logger = logging.getLogger(__name__)


def tell_taken(device: Device) -> None:
    """Tells people that a device is taken out of its organization."""
    metrics.count("organizations_taken")
    organization = Organization.objects.filter(pk=device.organization_id or 0).first()
    logger.warning(
        "%s is taken out of %s: it is a dock that another one brought there as its aircraft, or is "
        "behind such a dock. If it belongs there, adopt it",
        device.sn,
        organization,
    )


def tell_refused(sender: str, sn: str, reason: str) -> None:
    """Tells people that a device may not be bound, and why."""
    metrics.count("refused_binds", reason=reason)
    logger.warning("dock %s may not bind %s: %s", sender, sn, reason)
