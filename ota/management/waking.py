"""Tells the workers that there is something to do."""

import logging
import threading

from ota.tasks import advance

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # s


def wake_workers() -> None:
    """Saves the second until the clock's next tick; without Redis that does it later.

    What was asked for is in the database already, so nothing that happens here may keep the answer
    back. A Redis that takes connections and says nothing keeps its caller for ever.
    """
    reasons = []

    def wake() -> None:
        try:
            # "retry" is about the message alone: a connection of Celery's pool is tried for 4 s.
            once = {"max_retries": 0}
            with advance.app.connection_for_write(transport_options=once) as connection:
                advance.apply_async(producer=advance.app.amqp.Producer(connection), retry=False)
        except Exception as error:  # noqa: BLE001  # whatever it raises, the work is done
            reasons.append(str(error) or type(error).__name__)

    waking = threading.Thread(target=wake, name="wake", daemon=True)
    waking.start()
    waking.join(PATIENCE)
    if waking.is_alive():
        reasons.append(f"it has said nothing for {PATIENCE:g} s")
    if reasons:
        logger.warning("Redis did not wake the workers, so it takes effect later: %s", reasons[0])
