"""Whether a part really answers: asked with its own protocol, not only whether its port is open."""

import http.client
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

import redis
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

# Seconds for one question; callers ask again.
PATIENCE = 2.0


def redis_answers(url: str) -> bool:
    """Whether the server at ``redis://…`` answers PING."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
        ) as connection:
            return bool(connection.ping())
    except (redis.RedisError, OSError):
        return False


def mqtt_answers(url: str, *, ca_file: str = "", cert: str = "", key: str = "") -> bool:
    """Whether the broker at ``mqtt[s]://…`` accepts our CONNECT."""
    parts = urlsplit(url)
    client = Client(
        CallbackAPIVersion.VERSION2, client_id=f"fleet-ota-check-{uuid.uuid4().hex[:8]}"
    )
    client.connect_timeout = PATIENCE
    if parts.username:
        client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
    if parts.scheme == "mqtts":
        client.tls_set(ca_file or None, cert or None, key or None)
    try:
        client.connect(
            parts.hostname or "", parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        )
        return _accepted(client)
    except (OSError, ValueError):
        return False
    finally:
        client.disconnect()


def _accepted(client: Client) -> bool:
    until = time.monotonic() + PATIENCE
    while not client.is_connected() and time.monotonic() < until:
        if client.loop(0.1):
            return False
    return client.is_connected()


def http_answers(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def log_says(log: Path, start: int, words: str) -> bool:
    """Whether the log has the words at or after the byte ``start``."""
    try:
        with log.open("rb") as lines:
            lines.seek(start)
            return words.encode() in lines.read()
    except FileNotFoundError:
        return False
