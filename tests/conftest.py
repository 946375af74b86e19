"""What tests stand on: servers and a database of their own, and our processes over them."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from coverage import Coverage
from django.conf import settings as project_settings
from django.core.cache import cache
from django.db import connection, connections
from kombu import pools
from pytest_django import Settings

from config import env
from config.celery import app as celery_app
from demo import ports
from fleet import telemetry
from fleet.clock import Watch
from mqtt_bridge import garbage, publisher
from tests import servers
from tests.calls import Run
from tests.docks import Wire
from tests.processes import Processes

StartServer = Callable[[Callable[[Path], servers.Server]], servers.Server]
# The environment of a process in which coverage is to count after all.
COUNTING = pytest.StashKey[dict[str, str]]()
_STARTED = pytest.StashKey[Processes]()
_SHOWN = 6000  # characters of each log that a failed test shows


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgres"),
        default=os.environ.get("TEST_DATABASE") or "sqlite",
        help="the database of the tests; postgres starts one of its own (also: TEST_DATABASE)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Runs side by side do not choose a port that another one has chosen and not opened yet.

    Coverage counts in the workers that run tests; in the processes that these start it would cost
    too much.
    """
    if not config.getoption("numprocesses", None):  # it is a worker, or there are none
        config.stash[COUNTING] = {
            name: os.environ.pop(name) for name in ["COVERAGE_PROCESS_CONFIG"] if name in os.environ
        }
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    run = 2 * worker + (config.getoption("--database") == "postgres")
    ports.supply = ports.among(ports.OURS[run % 32 * 700 :][:700])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its processes wrote; in CI a skipped one has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"With CI set every test must run: {report.longrepr}"
    started = item.stash.get(_STARTED, None)
    if report.failed and started:
        for process in started.running:
            report.sections.append((f"output of {process.name}", process.output[-_SHOWN:]))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """PostgreSQL gets what asks the database; in the run of all, the longest tests go first."""
    is_whole, on_postgres = (
        hasattr(config, "workerinput"),
        config.getoption("--database") != "sqlite",
    )
    if on_postgres:
        _keep(config, items, _asks_postgres)
    if is_whole and not on_postgres:
        _keep(config, items, lambda item: "postgres_alone" not in item.keywords)
    if is_whole:
        items.sort(key=_length, reverse=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and all of Django live to the end: collecting garbage passes them by."""
    garbage.leave_startup()


def _keep(
    config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]
) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = filter(wanted, items)


def _asks_postgres(item: pytest.Item) -> bool:
    if "services" in item.keywords:
        return bool({"everywhere", "postgres_alone"}.intersection(item.keywords))
    asked = {"db", "transactional_db"}.intersection(getattr(item, "fixturenames", ()))
    return bool(asked) or "django_db" in item.keywords


def _length(item: pytest.Item) -> tuple[float, bool]:
    """Grows with how long a test takes, as far as it says so itself."""
    limit = item.get_closest_marker("timeout")
    return (limit.args[0] if limit else 0, "services" in item.keywords)


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


# Servers: started by the first test that asks, ended with the session.


@pytest.fixture(scope="session")
def start_server() -> Iterator[StartServer]:
    """Starts a server in a folder that also the user ``postgres`` may enter, unlike pytest's own."""
    root = Path(tempfile.mkdtemp(prefix="fleet-ota-"))
    root.chmod(0o755)
    started: list[servers.Server] = []

    def start(make: Callable[[Path], servers.Server]) -> servers.Server:
        folder = root / make.__name__
        folder.mkdir()
        started.append(make(folder))
        return started[-1].start()

    yield start
    for server in reversed(started):
        server.end()
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def session_mosquitto(start_server: StartServer) -> servers.Server:
    return start_server(servers.mosquitto)


@pytest.fixture(scope="session")
def session_redis(start_server: StartServer) -> Iterator[servers.Server]:
    server = start_server(servers.redis)
    # Celery reads its address once a process.
    celery_app.conf.update(broker_url=server.url)
    yield server
    pools.reset()


@pytest.fixture(scope="session")
def postgres(start_server: StartServer) -> servers.Server:
    """A PostgreSQL of the session's own; ``.url`` names its database ``fleet``."""
    return start_server(servers.fleeting_postgres)


@pytest.fixture
def mosquitto(session_mosquitto: servers.Server, settings: Settings) -> Iterator[servers.Server]:
    """A running broker, in the settings too; a test may ``stop()`` and ``start()`` it."""
    if not session_mosquitto.is_alive:
        session_mosquitto.start()
    settings.MQTT_URL = session_mosquitto.url
    yield session_mosquitto
    publisher.close()


@pytest.fixture
def redis_server(session_redis: servers.Server, settings: Settings) -> servers.Server:
    """A running, empty Redis, in the settings too; a test may ``stop()`` and ``start()`` it."""
    if not session_redis.is_alive:
        session_redis.start()
    servers.empty_redis(session_redis.url)
    settings.REDIS_URL = settings.CELERY_BROKER_URL = session_redis.url
    layer = project_settings.CHANNEL_LAYERS["default"]
    settings.CHANNEL_LAYERS = {"default": layer | {"CONFIG": {"hosts": [session_redis.url]}}}
    return session_redis


@pytest.fixture
def wire(mosquitto: servers.Server) -> Iterator[Wire]:
    with Wire(mosquitto.url) as connected:
        yield connected


# The database: a file, so that processes can share it, or the session's own PostgreSQL.


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if request.config.getoption("--database") == "postgres":
        _use(_postgres_entry(request.getfixturevalue("postgres").url))
    else:
        folder = tmp_path_factory.mktemp("database")
        entry = project_settings.DATABASES["default"]
        _use(entry | {"TEST": {"NAME": str(folder / "fleet.sqlite3")}})


def _postgres_entry(url: str) -> dict[str, Any]:
    """As the settings would read it from DATABASE_URL."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", url)
        return env.database("DATABASE_URL", "", Path())


def _use(entry: dict[str, Any]) -> None:
    """Makes Django open the database of this entry from now on."""
    del connections["default"]
    connections.settings["default"] = entry
    connections.settings = connections.configure_settings(connections.settings)


@pytest.fixture
def database_url(transactional_db: None) -> str:
    """The address of the test's database, for processes that share it."""
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{values['NAME']}"
    return f"postgres://{values['USER']}@{values['HOST']}:{values['PORT']}/{values['NAME']}"


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """What pages remember for seconds would make counts of queries depend on the test before."""
    cache.clear()


@pytest.fixture(autouse=True)
def nothing_compared() -> None:
    """What the bridge compared with the database of another test is not known in this one."""
    telemetry.forget(list(telemetry.compared))
    telemetry.watch = Watch()


# Our own commands and processes.


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls our management commands."""
    return Run(capsys)


@pytest.fixture
def uncounted() -> Iterator[None]:
    """What the test covers is not counted, which would cost half of its speed."""
    counting = Coverage.current()
    if counting:
        counting.stop()
    yield
    if counting:
        counting.start()


def _storage_entry(folder: Path) -> dict[str, Any]:
    """As the settings would read it from STORAGE_URL."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_URL", f"file://{folder}")
        return env.storage("STORAGE_URL", "", Path())


@pytest.fixture(autouse=True)
def packages_folder(tmp_path: Path, settings: Settings) -> None:
    """No test puts packages among those of the person at this machine, or of another test."""
    entry = _storage_entry(tmp_path / "media")
    settings.STORAGES = settings.STORAGES | {"default": entry}


@pytest.fixture
def processes(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    redis_server: servers.Server,
    mosquitto: servers.Server,
    settings: Settings,
) -> Iterator[Processes]:
    """Starts bridge, worker, beat, web, firmware and simulator over the test's servers.

    The test's own code sees the same addresses and the same storage. All are ended with the test.
    """
    web_port, firmware_port = ports.free(), ports.free()
    settings.PUBLIC_URL = f"http://{ports.HOST}:{web_port}"
    settings.FIRMWARE_URL = f"http://{ports.HOST}:{firmware_port}"
    environment = {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SECRET_KEY": settings.SECRET_KEY,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_server.url,
        "MQTT_URL": mosquitto.url,
        # The broker keeps the sessions of earlier tests.
        "MQTT_CLIENT_ID": f"bridge-{uuid.uuid4().hex[:8]}",
        "STORAGE_URL": f"file://{tmp_path}/media",
        "PUBLIC_URL": settings.PUBLIC_URL,
        "FIRMWARE_URL": settings.FIRMWARE_URL,
    }
    started = Processes(environment, tmp_path, web_port, firmware_port)
    request.node.stash[_STARTED] = started
    yield started
    started.end_all()


@pytest.fixture(scope="session")
def session_s3(start_server: StartServer) -> servers.Server:
    return start_server(servers.s3)


@pytest.fixture
def s3_server(session_s3: servers.Server) -> servers.Server:
    """A running server of buckets, and it has none; a test may ``stop()`` and ``start()`` it."""
    if not session_s3.is_alive:
        session_s3.start()
    servers.empty_s3(session_s3.url)
    return session_s3


@pytest.fixture
def bucket(
    s3_server: servers.Server,
    processes: Processes,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The storage of tests and processes is a bucket; this is the address of its server.

    Browsers may reach it as docs/deploy.md has it.
    """
    url = s3_server.url
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    values = keys | {
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_URL": f"s3://fleet/library?endpoint={url}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    processes.environment |= values
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="fleet")
    rule = {"AllowedMethods": ["GET", "PUT", "POST", "DELETE"], "AllowedHeaders": ["*"]}
    rule |= {"AllowedOrigins": ["*"], "ExposeHeaders": ["ETag"]}
    client.put_bucket_cors(Bucket="fleet", CORSConfiguration={"CORSRules": [rule]})
    settings.STORAGES = settings.STORAGES | {"default": env.storage("STORAGE_URL", "", Path())}
    return url
