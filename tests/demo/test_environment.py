"""The demo fills the gaps of the environment and leaves alone what is set."""

import os
import socket
import stat
from pathlib import Path

import pytest

from demo import environment, ports

NAMES = (
    "SECRET_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "MQTT_URL",
    "STORAGE_URL",
    "PUBLIC_URL",
    "FIRMWARE_URL",
    "DJI_APP_ID",
    "DJI_APP_KEY",
    "DJI_APP_LICENSE",
    environment.EMBEDDED,
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set; what the test sets goes away with it."""
    for name in NAMES:
        monkeypatch.setenv(name, "")


def test_everything_that_is_missing_is_filled_in(tmp_path: Path) -> None:
    environment.complete(["--port", "9000", "--folder", str(tmp_path)])
    assert os.environ["DATABASE_URL"] == f"sqlite:///{tmp_path}/db.sqlite3"
    assert os.environ["PUBLIC_URL"] == "http://127.0.0.1:9000"
    assert os.environ["FIRMWARE_URL"] == "http://127.0.0.1:9001"
    assert os.environ["REDIS_URL"].startswith("redis://127.0.0.1:")
    assert os.environ[environment.EMBEDDED] == "redis mqtt"


def test_what_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache/1")
    monkeypatch.setenv("SECRET_KEY", "mine")
    environment.complete(["--folder", str(tmp_path)])
    assert os.environ["REDIS_URL"] == "redis://cache/1"
    assert os.environ["SECRET_KEY"] == "mine"
    assert os.environ[environment.EMBEDDED] == "mqtt"


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    key = environment.secret_key(file)
    assert len(key) >= 50
    assert environment.secret_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "arguments", [["--port"], ["--port", "many"], ["--port", "9" * 23], ["--port", "9" * 5000]]
)
def test_what_is_wrong_with_a_port_is_left_to_the_command(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    environment.complete(arguments)
    assert os.environ["PUBLIC_URL"] == "http://127.0.0.1:8000"
    assert os.environ["SECRET_KEY"]


def test_ports_are_kept_for_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    chosen = ports.remembered(file, ["redis"])
    ports.remember(file, chosen)
    assert ports.remembered(file, ["redis"]) == chosen


def test_a_chosen_port_is_none_that_an_outgoing_connection_gets() -> None:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert all(ports.free() < int(first) for _ in range(100))


@pytest.mark.parametrize("place", ["/etc/hostname/x", "/proc", "a\0b"])
def test_a_folder_that_cannot_be_is_refused_in_one_line(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        environment.complete(["--folder", place])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The demo cannot keep its data in ")
    assert ended.value.code == 2


def test_a_folder_that_another_demo_uses_is_left_alone(tmp_path: Path) -> None:
    with environment.alone_in(tmp_path):
        environment.complete(["--folder", str(tmp_path)])
    assert not (tmp_path / "ports.json").exists()
    assert not (tmp_path / environment.FOR_SHELLS).exists()
    assert os.environ["SECRET_KEY"]


def test_a_remembered_port_that_was_taken_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    with socket.create_server((ports.HOST, 0)) as listener:
        taken = listener.getsockname()[1]
        file.write_text(f'{{"redis": {taken}}}')
        assert not ports.is_free(taken)
        assert ports.remembered(file, ["redis"])["redis"] != taken


def test_a_damaged_file_of_ports_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text("[broken")
    assert ports.is_free(ports.remembered(file, ["mqtt"])["mqtt"])


def test_a_shell_can_take_over_what_was_added(tmp_path: Path) -> None:
    environment.complete(["--folder", str(tmp_path)])
    file = tmp_path / environment.FOR_SHELLS
    assert f"export SECRET_KEY={os.environ['SECRET_KEY']}\n" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
