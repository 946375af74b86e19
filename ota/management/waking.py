"""Tells the workers that there is something to do."""

import logging

from kombu.exceptions import OperationalError

from ota.tasks import advance

logger = logging.getLogger(__name__)


def wake_workers() -> None:
    """Saves the second until the clock's next tick; without Redis that does it later."""
    try:
        advance.delay()
    except OperationalError as error:
        logger.warning("Redis does not answer, so it takes effect later: %s", error)
