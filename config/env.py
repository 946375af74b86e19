"""Reads the environment once, and says in one line what is wrong with a variable."""

import os
import re
import ssl
import zoneinfo
from email.utils import parseaddr
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

import environ

_MAIL_SCHEMES = {"smtp", "smtp+tls", "smtp+ssl", "consolemail"}
_MAIL_PORTS = {"smtp+tls": 587, "smtp+ssl": 465}
_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}


def wrong(name: str, value: str | None, expected: str) -> NoReturn:
    """Ends the process with one line: the variable, its value (addresses without secrets), what is expected."""
    shown = "is missing" if value is None else f"is {without_password(value)!r}"
    raise SystemExit(f"{name} {shown}; expected {expected}")


def without_password(value: str) -> str:
    """The value as it may be shown: user, password, query and fragment of an address are ``***``."""
    scheme, separator, rest = value.partition("://") if "://" in value else ("", "", value)
    _, at, host = rest.rpartition("@")
    host, *further = re.split(r"([?#])", host, maxsplit=1)
    if separator and not at:
        host = _without_word(host)
    hidden = f"{further[0]}***" if further else ""
    return f"{scheme}{separator}{'***@' if at else ''}{host}{hidden}"


def _without_word(host: str) -> str:
    """Without what stands in the place of the port: a password, if the host was forgotten."""
    authority = host.partition("/")[0]
    if ":" not in authority or re.fullmatch(r"(\[.*\]|[^:]+)(:[0-9]{0,5})?", authority):
        return host
    return f"{authority.partition(':')[0]}:***"


def text(name: str, default: str = "", *, most: int | None = None) -> str:
    """The variable without surrounding blanks; the default where it is unset or empty."""
    value = os.environ.get(name, "").strip() or default
    if value != value.encode(errors="replace").decode():
        wrong(name, value, "text in UTF-8")
    if most is not None and len(value) > most:
        wrong(name, value, f"at most {most} characters")
    return value


def flag(name: str, default: bool) -> bool:
    """``1`` or ``0`` (also true/false, yes/no, on/off)."""
    value = text(name, "1" if default else "0")
    if value.lower() not in _WORDS:
        wrong(name, value, "1 or 0")
    return _WORDS[value.lower()]


def number(name: str, default: float, *, least: float = 0, most: float = 1e9) -> float:
    """A number within the limits; used for seconds, hours and counts."""
    value = text(name, str(default))
    try:
        result = float(value)
    except ValueError:
        result = float("nan")
    if not least <= result <= most:
        wrong(name, value, f"a number from {least:g} to {most:g}")
    return result


def integer(name: str, default: int, *, least: int, most: int) -> int:
    """A whole number within the limits."""
    value = number(name, default, least=least, most=most)
    if value != int(value):
        wrong(name, text(name), f"a whole number from {least} to {most}")
    return int(value)


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = text(name, default)
    if value not in allowed:
        wrong(name, value, " or ".join(allowed))
    return value


def listing(name: str, default: list[str]) -> list[str]:
    """Values between commas."""
    values = [part.strip() for part in text(name).split(",") if part.strip()]
    return values or default


def hosts(name: str, default: list[str]) -> list[str]:
    """Names of hosts between commas, as Django compares them: neither with a scheme nor with a port."""
    values = listing(name, default)
    form = r"\*|\.?[\w-]+(\.[\w-]+)*|\[[0-9A-Fa-f:.]+\]"
    if text(name) and not all(re.fullmatch(form, value) for value in values):
        wrong(name, text(name), "hosts such as fleet.example.org, between commas")
    return values


def origins(name: str, default: list[str]) -> list[str]:
    """Addresses between commas, each with its scheme, as browsers send them: without a path."""
    values = [value.rstrip("/") for value in listing(name, default)]
    if text(name) and not all(re.fullmatch(r"https?://[^/?#@]+", value) for value in values):
        wrong(name, text(name), "addresses such as https://fleet.example.org, between commas")
    return values


def address(name: str, default: str, *schemes: str) -> str:
    """An address with one of the schemes and a host."""
    value = text(name, default)
    if re.search(r"\s", value):
        wrong(name, value, "an address without blanks")
    parts = split(name, value)
    if parts.scheme not in schemes or not parts.hostname:
        wrong(name, value, f"{' or '.join(f'{scheme}://' for scheme in schemes)} and a host")
    return value.rstrip("/")


def base(name: str, default: str) -> str:
    """What links begin with, so what is in it is told to everybody."""
    value = address(name, default, "http", "https")
    if "@" in split(name, value).netloc or re.search(r"[?#]", value):
        wrong(name, value, "an address without user, password, query and fragment")
    return value


def split(name: str, value: str, *, inside: str = "") -> SplitResult:
    """The parts of an address: the variable's own, or one that is inside of it."""
    try:
        parts = urlsplit(inside or value)
        is_port = parts.port != 0  # reading it checks it
    except ValueError:
        is_port = False
    if not is_port:
        wrong(name, value, "an address with a port from 1 to 65535")
    return parts


def broker(name: str, default: str) -> str:
    """The address of an MQTT broker."""
    value = address(name, default, "mqtt", "mqtts")
    parts = split(name, value)
    if parts.path or parts.query or parts.fragment:
        wrong(name, value, "a broker's address without a path")
    return value


def prefix(name: str) -> str:
    """A path that begins and ends with a slash; empty where the variable is."""
    value = text(name)
    if value and not re.fullmatch(r"/(?:[A-Za-z0-9._~-]+/)+", value):
        wrong(name, value, "a path between slashes, such as /protected/")
    return value


def time_zone(name: str, default: str) -> str:
    value = text(name, default)
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        wrong(name, value, "a time zone by name, such as Europe/Zurich")
    return value


def existing_file(name: str) -> str:
    """The path of a file that is there; empty where the variable is."""
    value = text(name)
    if value and not Path(value).is_file():
        wrong(name, value, "the path of a file")
    return value


def authorities(name: str) -> str:
    """The path of a file with the certificates that are trusted; empty where the variable is."""
    path = existing_file(name)
    try:
        ssl.create_default_context(cafile=path or None)
    except OSError:
        wrong(name, path, "a file with certificates in PEM")
    return path


def certificate(name: str, key_name: str) -> tuple[str, str]:
    """The paths of a certificate and of its key, or of one file with both; empty where unset."""
    path, key = existing_file(name), existing_file(key_name)
    if key and not path:
        wrong(key_name, key, f"it together with {name}")
    try:
        if path:  # without the answer OpenSSL would ask a person for a key's password
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(path, key or None, password=lambda: "")
    except OSError:
        wrong(name, path, f"a file with a certificate and {key_name} one with its key, in PEM")
    return path, key


def redis(name: str, default: str) -> str:
    """The address of a Redis; Celery takes no database but by its number."""
    value = address(name, default, "redis", "rediss")
    if not re.fullmatch(r"(/[0-9]*)?", split(name, value).path):
        wrong(name, value, "a database by its number, such as redis://host:6379/0")
    return value


def group(name: str) -> str:
    """The name of a shared subscription (MQTT 5, section 4.8.2); empty where the variable is."""
    value = text(name)
    if re.search(r"[/+#\0]", value):
        wrong(name, value, "a word without / + #")
    return value


def database(name: str, default: str, root: Path) -> dict[str, Any]:
    """Django's database entry; a relative SQLite path starts at the project's root.

    SQLite writes ahead (readers and one writer at once), takes its lock when a
    transaction begins and waits for it, so that processes queue instead of failing.
    """
    value = text(name, default)
    parts = split(name, value)
    expected = "sqlite:///path or postgres://user:password@host:port/name"
    if parts.scheme in {"postgres", "postgresql"}:
        if not parts.path.strip("/"):
            wrong(name, value, expected)
        entry: dict[str, Any] = environ.Env.db_url_config(value)
        # Kept connections pile up under ASGI, one for each thread that ever served a request.
        options = {"connect_timeout": 5} | entry.get("OPTIONS", {})
        return entry | {"ENGINE": "database.postgres", "CONN_MAX_AGE": 0, "OPTIONS": options}
    # With two slashes the folder would be taken for a host.
    before, _, file = value.partition("sqlite:///")
    if before or not file:
        wrong(name, value, expected)
    path = root / file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        wrong(name, value, "a path in a folder that can be written")
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # What was written ahead is brought in each 16 MB: a batch of reports alone fills the usual 4.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        "PRAGMA wal_autocheckpoint=4000;",
    }
    return {"ENGINE": "database.sqlite", "NAME": str(path), "OPTIONS": options}


def storage(name: str, default: str, root: Path) -> dict[str, Any]:
    """Django's entry for the storage of packages: a folder, or an S3 bucket and a prefix.

    ``s3://bucket/prefix?endpoint=https://host`` takes its keys from the usual AWS variables.
    """
    value = text(name, default)
    parts = split(name, value)
    if parts.scheme == "file" and value.removeprefix("file://"):
        location = root / value.removeprefix("file://")
        return {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": str(location), "base_url": None},
        }
    is_known = re.fullmatch(r"(endpoint=https?://[^/?#&]+(/[^?#&]*)?)?", parts.query)
    if parts.scheme != "s3" or not parts.netloc or not is_known:
        wrong(name, value, "file://folder or s3://bucket/prefix?endpoint=https://host")
    from botocore.config import Config  # a fifth of a second that only buckets are worth

    endpoint = parts.query.removeprefix("endpoint=") or None
    split(name, value, inside=endpoint or "")
    return {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": parts.netloc,
            "location": parts.path.strip("/"),
            "endpoint_url": endpoint,
            "file_overwrite": False,
            # Or a bucket that swallows what it is asked holds a worker for minutes.
            "client_config": Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=30,
                retries={"total_max_attempts": 3},
            ),
        },
    }


def email(name: str) -> dict[str, Any]:
    """Django's settings of its mail server; where the variable is empty nothing is sent."""
    value = text(name)
    if not value:
        return {"EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend"}
    parts = split(name, value)
    expected = (
        "smtp://host:25, smtp+tls://user:password@host:587 or smtp+ssl://user:password@host:465"
    )
    if parts.scheme not in _MAIL_SCHEMES or not (parts.hostname or parts.scheme == "consolemail"):
        wrong(name, value, expected)
    entry: dict[str, Any] = environ.Env.email_url_config(value)
    return entry | {"EMAIL_PORT": parts.port or _MAIL_PORTS.get(parts.scheme, 25)}


def sender(name: str, default: str) -> str:
    """Who e-mails are from: an address, or a name and the address in angle brackets."""
    value = text(name, default)
    if text(name) and not re.fullmatch(r"[^@\s]+@[^@\s]+", parseaddr(value)[1]):
        wrong(name, value, "an address such as fleet@example.org")
    return value
