"""What can go wrong on the wire, as far as a caller can act on it."""


class BadMessage(ValueError):
    """A payload that is not what the Cloud API sends; the message says what is wrong."""


class BrokerUnavailable(ConnectionError):
    """No connection to the MQTT broker; nothing was sent."""
