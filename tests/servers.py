"""The servers that others wrote, for tests: each on a free port of 127.0.0.1, nothing kept."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest
import redis as redis_client

from demo import checks, ports
from tests.processes import Running

# Where Debian keeps programs that are not for everybody's PATH.
_FURTHER = "/usr/sbin:/sbin:/usr/local/sbin"


class Server(Running):
    """A server with an address; it keeps its port over ``stop()`` and ``start()``."""

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        url: str,
        answers: Callable[[str], bool],
        *,
        held: bool = True,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        super().__init__(
            name,
            command,
            folder / f"{name}.log",
            lambda _: answers(url),
            held=held,
            stop_signal=stop_signal,
        )
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def stop(self) -> None:
        self.terminate()


def program(name: str, package: str) -> str:
    """The path of a program. Where it is missing the test is skipped; with ``CI`` set that fails it."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), _FURTHER]))
    return path or pytest.skip(f"{package} is not installed")


def mosquitto(folder: Path) -> Server:
    port = ports.free()
    config = folder / "mosquitto.conf"
    # As root it would become another user, which takes our leash off.
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user}listener {port} {ports.HOST}\nallow_anonymous true\npersistence false\n"
        "max_inflight_messages 4000\nmax_queued_messages 0\nlog_dest stderr\n"
    )
    command = [program("mosquitto", "mosquitto"), "-c", str(config)]
    url = f"mqtt://{ports.HOST}:{port}"
    return Server("mosquitto", command, folder, url, checks.mqtt_answers)


def redis(folder: Path) -> Server:
    port = ports.free()
    command = [program("redis-server", "redis-server"), "--bind", ports.HOST, "--port", str(port)]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    url = f"redis://{ports.HOST}:{port}/0"
    return Server("redis", command, folder, url, checks.redis_answers)


def empty_redis(url: str) -> None:
    with redis_client.Redis.from_url(url) as connection:
        connection.flushall()


def s3(folder: Path) -> Server:
    """A server of buckets that opens itself to browsers only where a bucket's own rules say so."""
    url = f"http://{ports.HOST}:{ports.free()}"
    command = ["env", "MOTO_DISABLE_GLOBAL_CORS=1", sys.executable, "-m", "moto.server"]
    command += ["-H", ports.HOST, "-p", url.rpartition(":")[2]]
    return Server("s3", command, folder, url, lambda url: checks.http_answers(f"{url}/moto-api/"))


def empty_s3(url: str) -> None:
    httpx.post(f"{url}/moto-api/reset").raise_for_status()


def fleeting_postgres(folder: Path) -> Server:
    """One that is thrown away in the end: nothing in it has to outlive this machine."""
    return postgres(folder, "fsync=off", "synchronous_commit=off", "full_page_writes=off")


def postgres(folder: Path, *settings: str) -> Server:
    """A new cluster with the database ``fleet``; ``folder`` must be open to the user ``postgres``."""
    tools = postgres_tools()
    port = ports.free()
    data = folder / "data"
    _run([*_as_postgres(folder), f"{tools}/initdb", "--pgdata", str(data), "--username", "fleet"])
    command = [
        f"{tools}/postgres",
        "-D",
        str(data),
        "-p",
        str(port),
        "-c",
        f"listen_addresses={ports.HOST}",
    ]
    command += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
    command += [word for setting in settings for word in ("-c", setting)]
    url = f"postgres://fleet@{ports.HOST}:{port}/fleet"
    command = [*_as_postgres(folder), *command]
    # SIGINT ends it at once, SIGTERM would wait for the last client. The user changes on the way,
    # which takes our leash off: setpriv puts on its own.
    held = os.geteuid() != 0
    return Server(
        "postgres", command, folder, url, _postgres_answers, held=held, stop_signal=signal.SIGINT
    )


def nginx(folder: Path, locations: str) -> Server:
    """An nginx with these ``location`` blocks; all that it writes is in the folder."""
    port = ports.free()
    user = "user root;\n" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"{user}worker_processes auto;\npid {folder}/nginx.pid;\nerror_log stderr notice;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{\n{paths}access_log off;\nsendfile on;\ndefault_type application/octet-stream;\n"
        f"server {{\nlisten {ports.HOST}:{port};\n{locations}\n}}\n}}\n"
    )
    command = [program("nginx", "nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    command += ["-e", "stderr", "-g", "daemon off;"]
    url = f"http://{ports.HOST}:{port}"
    return Server("nginx", command, folder, url, _takes_connections)


def _takes_connections(url: str) -> bool:
    host, _, port = url.rpartition("/")[2].partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def postgres_tools() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_major)
    path = found[-1] if found else Path(program("postgres", "postgresql"))
    return path.parent


def _major(binary: Path) -> float:
    return float(binary.parts[-3])


def _as_postgres(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the words that run a command as the user ``postgres``."""
    if os.geteuid() != 0:
        return []
    shutil.chown(folder, "postgres", "postgres")
    identity = ["--reuid=postgres", "--regid=postgres", "--init-groups"]
    return [program("setpriv", "util-linux"), *identity, "--pdeathsig", "INT", "--"]


def _run(command: list[str]) -> None:
    options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    done = subprocess.run(
        [*command, *options], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _postgres_answers(url: str) -> bool:
    """Whether it takes connections; makes the database the first time."""
    try:
        with psycopg.connect(url.rpartition("/")[0] + "/postgres", autocommit=True) as connection:
            known = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = 'fleet'"
            ).fetchone()
            if not known:
                connection.execute("CREATE DATABASE fleet")
    except psycopg.OperationalError:
        return False
    return True
