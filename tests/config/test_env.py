"""A wrong variable ends the process with one line; nobody gets a traceback or a password."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from config import env

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    ("DEBUG", "perhaps", "1 or 0"),
    ("PUBLIC_URL", "fleet.example.org", "http:// or https:// and a host"),
    ("PUBLIC_URL", "http://", "http:// or https:// and a host"),
    ("FIRMWARE_URL", "ftp://fleet.example.org", "http:// or https:// and a host"),
    ("FIRMWARE_URL", "http://fleet.example.org:99999", "a port from 1 to 65535"),
    ("REDIS_URL", "http://127.0.0.1", "redis:// or rediss:// and a host"),
    (
        "REDIS_URL",
        "redis://127.0.0.1/fleet",
        "a database by its number, such as redis://host:6379/0",
    ),
    ("MQTT_SHARED_GROUP", "a/b", "a word without / + #"),
    ("MQTT_SHARED_GROUP", "a+b", "a word without / + #"),
    ("MQTT_CA_FILE", "LICENSE", "a file with certificates in PEM"),
    (
        "MQTT_CLIENT_CERT",
        "LICENSE",
        "a file with a certificate and MQTT_CLIENT_KEY one with its key",
    ),
    ("MQTT_URL", "tcp://127.0.0.1", "mqtt:// or mqtts:// and a host"),
    ("MQTT_URL", "mqtt://broker:99999", "a port from 1 to 65535"),
    ("MQTT_URL", "mqtt://broker:0", "a port from 1 to 65535"),
    ("MQTT_URL", "mqtt://broker:1883/path", "a broker's address without a path"),
    ("MQTT_CLIENT_ID", os.fsdecode(b"bridge-\xff"), "text in UTF-8"),
    ("PUBLIC_URL", "https://exa mple.org", "an address without blanks"),
    ("MQTT_VERSION", "4", "3.1.1 or 5"),
    ("MQTT_CA_FILE", "/nowhere/ca.pem", "the path of a file"),
    ("MQTT_CLIENT_CERT", "/nowhere/cert.pem", "the path of a file"),
    ("MQTT_CLIENT_KEY", "/nowhere/key.pem", "the path of a file"),
    ("MQTT_ANSWER_REQUESTS", "2", "1 or 0"),
    ("DATABASE_URL", "mysql://127.0.0.1/fleet", "sqlite:///path or postgres://"),
    ("DATABASE_URL", "sqlite:///", "sqlite:///path or postgres://"),
    ("DATABASE_URL", "sqlite://var/db.sqlite3", "sqlite:///path or postgres://"),
    ("DATABASE_URL", "sqlite:var/db.sqlite3", "sqlite:///path or postgres://"),
    ("STORAGE_URL", "gs://bucket", "file://folder or s3://bucket"),
    ("STORAGE_URL", "file://", "file://folder or s3://bucket"),
    ("TIME_ZONE", "Mars/Olympus", "a time zone by name"),
    ("LOG_FORMAT", "xml", "text or json"),
    ("FIRMWARE_LINK_HOURS", "soon", "a number from 0.001 to 168"),
    ("FIRMWARE_LINK_HOURS", "0", "a number from 0.001 to 168"),
    ("FIRMWARE_ACCEL_PREFIX", "protected", "a path between slashes, such as /protected/"),
    ("FIRMWARE_BYTES_PER_SECOND", "1.5", "a whole number from 0 to 1000000000"),
    ("OTA_SEND_ATTEMPTS", "11", "a number from 1 to 10"),
    ("OTA_SEND_ATTEMPTS", "1.5", "a whole number from 1 to 10"),
    ("EMAIL_URL", "mail.example.org", "smtp://host:25"),
    ("EMAIL_URL", "imap://mail.example.org", "smtp://host:25"),
    ("EMAIL_URL", "smtp://mail.example.org:99999", "a port from 1 to 65535"),
    ("WEBHOOK_ALLOW_PRIVATE", "some", "1 or 0"),
    ("DATABASE_URL", "postgres://127.0.0.1", "postgres://user:password@host:port/name"),
    ("DATABASE_URL", "sqlite:////proc/x/y", "a path in a folder that can be written"),
    ("CSRF_TRUSTED_ORIGINS", "fleet.example.org", "addresses such as https://"),
    ("CSRF_TRUSTED_ORIGINS", "https://", "addresses such as https://"),
    ("CSRF_TRUSTED_ORIGINS", "https://fleet.example.org/admin", "addresses such as https://"),
    ("ALLOWED_HOSTS", "fleet.example.org, https://a.example.org", "hosts such as fleet."),
    ("ALLOWED_HOSTS", "fleet.example.org/", "hosts such as fleet.example.org"),
    ("ALLOWED_HOSTS", "fleet.example.org:8000", "hosts such as fleet.example.org"),
    ("ALLOWED_HOSTS", "::1", "hosts such as fleet.example.org"),
    ("MQTT_CLIENT_KEY", "LICENSE", "it together with MQTT_CLIENT_CERT"),
    ("MQTT_CLIENT_ID", "b" * 201, "at most 200 characters"),
    ("DEFAULT_FROM_EMAIL", "x y", "an address such as fleet@example.org"),
    ("DEFAULT_FROM_EMAIL", "Fleet <fleet>", "an address such as fleet@example.org"),
    ("EVENT_DAYS", "7", "a number from 14 to 36500"),
    ("ROLLOUT_MOST_DEVICES", "0", "a number from 1 to 1e+06"),
    ("ROLLOUT_LIMIT_IN_FLIGHT", "-1", "a number from 1 to 100000"),
]


def read_settings(**variables: str) -> subprocess.CompletedProcess[str]:
    """Reads the settings in a process that has nothing but these variables (and a key)."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COV"))}
    return subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=ROOT,
        env=kept | {"SECRET_KEY": "k" * 50} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(name: str, value: str) -> str:
    """What such a process says at its end, without the process."""
    variables = {"SECRET_KEY": "k" * 50, name: value}
    with patch.dict(os.environ, variables, clear=True), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "config" / "settings.py"))
    return str(ended.value)


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_wrong_value_gives_one_line(name: str, value: str, expected: str) -> None:
    line = refusal(name, value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{name} is {value!r}; expected ")
    assert expected in line


def test_a_wrong_value_ends_the_process() -> None:
    done = read_settings(DEBUG="perhaps")
    assert (done.returncode, done.stderr) == (1, refusal("DEBUG", "perhaps") + "\n")


def test_a_missing_key_is_named() -> None:
    done = read_settings(SECRET_KEY="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "SECRET_KEY is missing; expected" in done.stderr


def test_with_debug_the_key_may_be_missing() -> None:
    assert read_settings(SECRET_KEY="", DEBUG="1").returncode == 0


def test_the_defaults_are_accepted() -> None:
    done = read_settings()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MQTT_URL", "tcp://user:hunter2@broker"),
        ("REDIS_URL", "amqp://:hunter2@broker/0"),
        ("DATABASE_URL", "mysql://fleet:hunter2@db/fleet"),
        ("DATABASE_URL", "postgres://fleet:hunter2@db:99999/fleet"),
        ("MQTT_URL", "mqtt://user:p@ss:hunter2@broker:port"),
        ("STORAGE_URL", "gs://bucket?key=hunter2"),
        ("REDIS_URL", "redis://:hunter2/0"),
        ("DATABASE_URL", "postgres://user:hunter2/name"),
        ("EMAIL_URL", "smtp+tls://user:hunter2"),
        ("MQTT_URL", "mqtt://user:hunter2"),
    ],
)
def test_no_password_is_shown(name: str, value: str) -> None:
    line = refusal(name, value)
    assert line.startswith(f"{name} is ")
    assert "hunter2" not in line


def test_addresses_are_shown_without_user_password_and_query() -> None:
    assert env.without_password("redis://:hunter2@cache:6379/0") == "redis://***@cache:6379/0"
    assert env.without_password("s3://bucket?endpoint=x") == "s3://bucket?***"
    assert env.without_password("mqtt://broker:1883") == "mqtt://broker:1883"
    assert env.without_password("perhaps") == "perhaps"
    assert env.without_password("mqtt://[::1]:1883") == "mqtt://[::1]:1883"
    assert env.without_password("redis://[::1]/0") == "redis://[::1]/0"


def test_a_password_whose_host_was_forgotten_is_not_taken_for_a_port() -> None:
    assert env.without_password("mqtt://user:hunter2") == "mqtt://user:***"
    assert env.without_password("mqtt://user:hun:1234") == "mqtt://user:***"
    assert env.without_password("redis://:hun/ter2/0") == "redis://:***"
    assert env.without_password("redis://:12345/0") == "redis://:***"
    assert env.without_password("postgres://user:1234567/name") == "postgres://user:***"


@pytest.mark.parametrize("name", ["PUBLIC_URL", "FIRMWARE_URL"])
@pytest.mark.parametrize(
    "value",
    [
        "https://ada:hunter2@fleet.example.org",
        "https://hunter2@fleet.example.org/base",
        "https://fleet.example.org/?token=hunter2",
        "https://fleet.example.org/#hunter2",
        "https://fleet.example.org?",
        "https://fleet.example.org#",
    ],
)
def test_what_links_begin_with_has_nothing_that_would_break_or_tell_a_secret(
    name: str, value: str
) -> None:
    line = refusal(name, value)
    assert line.startswith(f"{name} is ")
    assert line.endswith("expected an address without user, password, query and fragment")
    assert "hunter2" not in line


def test_hosts_are_taken_as_django_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "fleet.example.org, .example.org, 10.0.0.7, [::1], *")
    expected = ["fleet.example.org", ".example.org", "10.0.0.7", "[::1]", "*"]
    assert env.hosts("ALLOWED_HOSTS", []) == expected


@pytest.mark.parametrize(
    "value", ["fleet@example.org", "Fleet OTA <fleet@example.org>", "root@localhost"]
)
def test_a_sender_may_have_a_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_FROM_EMAIL", value)
    assert env.sender("DEFAULT_FROM_EMAIL", "") == value


def test_an_origin_is_taken_as_browsers_send_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSRF_TRUSTED_ORIGINS", "https://a.example.org/, https://*.example.org:8443")
    expected = ["https://a.example.org", "https://*.example.org:8443"]
    assert env.origins("CSRF_TRUSTED_ORIGINS", []) == expected


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "  ")
    assert env.choice("LOG_FORMAT", "text", ("text", "json")) == "text"


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "one.example.org, two.example.org,")
    assert env.listing("ALLOWED_HOSTS", []) == ["one.example.org", "two.example.org"]


def test_sqlite_waits_for_its_lock_and_writes_ahead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///data/fleet.sqlite3")
    entry = env.database("DATABASE_URL", "", tmp_path)
    assert entry["NAME"] == str(tmp_path / "data" / "fleet.sqlite3")
    assert entry["OPTIONS"]["timeout"] == 20
    assert "journal_mode=WAL" in entry["OPTIONS"]["init_command"]


def test_postgres_is_taken_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://fleet:p%40ss@db:5433/fleet")
    entry = env.database("DATABASE_URL", "", tmp_path)
    assert entry["ENGINE"] == "database.postgres"
    assert (entry["HOST"], entry["PORT"], entry["PASSWORD"]) == ("db", 5433, "p@ss")


@pytest.mark.parametrize(
    "query",
    ["endpoint=s3.example.org", "endpoint=https://", "region=eu-west-1", "endpoint=https://a&x=1"],
)
def test_a_bucket_takes_no_other_words_than_where_it_is(query: str) -> None:
    told = refusal("STORAGE_URL", f"s3://bucket/a?{query}")
    assert "s3://bucket/prefix?endpoint=https://host" in told


@pytest.mark.parametrize("port", ["99999", "0", "port"])
def test_a_bucket_is_at_a_port_that_there_is(port: str) -> None:
    told = refusal("STORAGE_URL", f"s3://bucket/a?endpoint=https://host:{port}")
    assert (
        told
        == "STORAGE_URL is 's3://bucket/a?***'; expected an address with a port from 1 to 65535"
    )


@pytest.mark.parametrize(
    "endpoint",
    ["https://s3.example.org", "http://10.0.0.7:9000/", "https://example.org/storage/v1/s3"],
)
def test_a_bucket_keeps_its_prefix_and_endpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str
) -> None:
    monkeypatch.setenv("STORAGE_URL", f"s3://firmware/fleet/a?endpoint={endpoint}")
    options = env.storage("STORAGE_URL", "", tmp_path)["OPTIONS"]
    assert (options["bucket_name"], options["location"]) == ("firmware", "fleet/a")
    assert options["endpoint_url"] == endpoint


@pytest.mark.parametrize(
    ("value", "port", "tls", "ssl"),
    [
        ("smtp://mail.example.org", 25, False, False),
        ("smtp+tls://ada:secret@mail.example.org", 587, True, False),
        ("smtp+ssl://ada:secret@mail.example.org", 465, False, True),
        ("smtp+tls://mail.example.org:2525", 2525, True, False),
    ],
)
def test_a_mail_server_has_the_usual_port_of_its_encryption(
    value: str, port: int, tls: bool, ssl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_URL", value)
    found = env.email("EMAIL_URL")
    assert found["EMAIL_PORT"] == port
    assert (found.get("EMAIL_USE_TLS", False), found.get("EMAIL_USE_SSL", False)) == (tls, ssl)


def test_without_a_mail_server_e_mails_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMAIL_URL", raising=False)
    assert env.email("EMAIL_URL")["EMAIL_BACKEND"].endswith("dummy.EmailBackend")
