"""The worker's side of the connection to Redis."""

import logging

from celery.worker.consumer import Consumer as CelerysConsumer

logger = logging.getLogger(__name__)


class Consumer(CelerysConsumer):
    """Comes back when Redis does, also if the worker held messages when that went away."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes the lost connection.

        kombu closes its channel twice if it could not give back the messages that it held, and the
        second time there is no address any more: an ``AttributeError``, which would end the worker.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            if self.connection:
                raise
            logger.warning("the lost connection to Redis could not be closed: %s", error)
