"""Over TLS: a private authority, and a client that has to show a certificate too."""

import subprocess
from pathlib import Path

import pytest
from pytest_django import Settings

from demo import ports
from mqtt_bridge import publisher
from mqtt_bridge.client import Outcome
from tests.processes import Processes
from tests.servers import program

pytestmark = pytest.mark.services


def openssl(*arguments: str) -> None:
    subprocess.run([program("openssl", "openssl"), *arguments], check=True, capture_output=True)


def make_certificate(folder: Path, name: str, subject: str) -> None:
    """``name.pem`` and ``name.key``, signed by ``ca.pem``; the authority signs itself."""
    key, certificate = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject]
    command += ["-keyout", key, "-out", certificate]
    if name == "ca":
        openssl(*command)
        return
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    signed_by = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key")]
    openssl(*command, *alternative, *signed_by)


@pytest.fixture
def broker(processes: Processes, tmp_path: Path) -> str:
    """The address of a broker that asks its clients for a certificate."""
    port = ports.free()
    for name, subject in {
        "ca": "/CN=Test authority",
        "server": "/CN=broker",
        "client": "/CN=bridge",
    }.items():
        make_certificate(tmp_path, name, subject)
    config = tmp_path / "tls.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nrequire_certificate true\n"
        f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    )
    command = [program("mosquitto", "mosquitto"), "-v", "-c", str(config)]
    processes.start("broker", command, lambda process: "running" in process.output)
    return f"mqtts://127.0.0.1:{port}"


def test_the_bridge_trusts_a_private_authority_and_shows_its_certificate(
    processes: Processes, broker: str, tmp_path: Path
) -> None:
    processes.bridge(
        MQTT_URL=broker,
        MQTT_CA_FILE=f"{tmp_path}/ca.pem",
        MQTT_CLIENT_CERT=f"{tmp_path}/client.pem",
        MQTT_CLIENT_KEY=f"{tmp_path}/client.key",
    )


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_commands_go_out_over_tls(
    broker: str, tmp_path: Path, settings: Settings, version: str
) -> None:
    settings.MQTT_URL, settings.MQTT_VERSION = broker, version
    settings.MQTT_CA_FILE = f"{tmp_path}/ca.pem"
    settings.MQTT_CLIENT_CERT = f"{tmp_path}/client.pem"
    settings.MQTT_CLIENT_KEY = f"{tmp_path}/client.key"
    try:
        sent = [("thing/product/7CTDM1/services", b"x" * 20_000)] * 150
        publisher.connect()
        assert publisher.publish(sent) == [Outcome.CONFIRMED] * 150
    finally:
        publisher.close()


def test_a_broker_that_nobody_vouches_for_is_not_trusted(processes: Processes, broker: str) -> None:
    bridge = processes.bridge(MQTT_URL=broker, wait=False)
    bridge.wait_for_line("waiting for mqtts://127.0.0.1")
    assert "connected to" not in bridge.output
