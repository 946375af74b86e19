"""An MQTT broker in a process of its own: ``python -m demo.broker CONFIG``, until SIGTERM."""

import logging
import signal
import sys
from pathlib import Path

from iotcore import IotCoreBroker

# The broker keeps, for each topic filter that somebody subscribed to, this much of what came.
# Who falls further behind loses messages, so it is ample; unbounded it would fill the memory.
_SEGMENT_SIZE = 4 << 20  # bytes
_SEGMENTS = 8

_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 4096
max_outgoing_packet_count = 200
max_segment_size = {segment_size}
max_segment_count = {segments}

[v4.1]
name = "demo"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 2097152
max_inflight_count = 500
dynamic_filters = true
"""


def configure(file: Path, host: str, port: int) -> None:
    """Writes the broker's configuration: MQTT 3.1.1 on one address."""
    file.write_text(
        _CONFIG.format(segment_size=_SEGMENT_SIZE, segments=_SEGMENTS, host=host, port=port)
    )


def run(config: str) -> None:
    # It logs every packet as an error.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    broker = IotCoreBroker(config_path=config)
    broker.check_ports()
    # Its own way of running in the foreground never returns to Python, so a handler would not run.
    broker.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    logging.basicConfig()
    run(sys.argv[1])
