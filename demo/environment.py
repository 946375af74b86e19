"""What the demo adds to the environment, before the settings are read: whatever is set stays as it is.

The demo and all of its children then read the same settings in the same way. No Django in here.
"""

import argparse
import fcntl
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demo import ports

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8000
WRONG_CALL = 2
SERVERS = ("redis", "mqtt")
# Tells the command, and nobody else, which servers it has to bring itself.
EMBEDDED = "DEMO_EMBEDDED"
# A shell that reads this file talks to the demo with manage.py's other commands.
FOR_SHELLS = "demo.env"


class FolderInUseError(Exception):
    """Two demos in one folder would write into each other's files."""


def complete(arguments: list[str]) -> None:
    """Sets each variable that the demo needs and that is unset or empty.

    A folder that cannot hold the demo's data ends the process as a wrong call.
    """
    options = _options(arguments)
    # What is wrong with a port the command's own parser says, once the settings are read.
    port = ports.console(options.port) or DEFAULT_PORT
    folder = data_folder(options.folder)
    try:
        _complete(folder, port)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        told = (
            f"The demo cannot keep its data in {str(folder)!r}: {reason}. Choose another --folder."
        )
        sys.stderr.write(f"{told}\n")
        raise SystemExit(WRONG_CALL) from None


def _complete(folder: Path, port: int) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = [name for name in SERVERS if not _is_set(f"{name.upper()}_URL")]
    embedded = ports.remembered(folder / "ports.json", missing)
    added = {
        name: value
        for name, value in _additions(folder, port, embedded).items()
        if not _is_set(name)
    }
    os.environ.update(added)
    os.environ[EMBEDDED] = " ".join(embedded)
    # While another demo runs in the folder these files are its own; the command then refuses.
    with suppress(FolderInUseError), alone_in(folder):
        ports.remember(folder / "ports.json", embedded)
        _write_for_shells(folder / FOR_SHELLS, added)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder; the kernel lets go of it when the process ends, however it ends.

    Raises:
        FolderInUseError: another process holds it.
    """
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"A demo runs in {folder} already; choose another --folder."
            ) from None
        yield


def data_folder(name: str) -> Path:
    """The folder of the demo's data; a relative one starts at the project's root."""
    return ROOT / name


def _options(arguments: list[str]) -> argparse.Namespace:
    """The options that decide about the environment; the command's own parser checks them all."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--port", default=str(DEFAULT_PORT))
    parser.add_argument("--folder", default="var")
    with suppress(argparse.ArgumentError):
        return parser.parse_known_args(arguments)[0]
    return parser.parse_args([])


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


def _additions(folder: Path, port: int, embedded: dict[str, int]) -> dict[str, str]:
    addresses = {
        f"{name.upper()}_URL": f"{name}://{ports.HOST}:{own}" for name, own in embedded.items()
    }
    return addresses | {
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "STORAGE_URL": f"file://{folder / 'media'}",
        "PUBLIC_URL": f"http://{ports.HOST}:{port}",
        "FIRMWARE_URL": f"http://{ports.HOST}:{port + 1}",
        "SECRET_KEY": secret_key(folder / "secret_key"),
        # A dock binds only to a cloud that has a licence; simulated docks take any.
        "DJI_APP_ID": "demo",
        "DJI_APP_KEY": "demo",
        "DJI_APP_LICENSE": "demo",
    }


def _write_for_shells(file: Path, variables: dict[str, str]) -> None:
    file.touch(mode=0o600)
    file.write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    )


def secret_key(file: Path) -> str:
    """The key in the file, which only its owner can read; made the first time."""
    with suppress(FileExistsError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as new:
            new.write(secrets.token_urlsafe(60))
    return file.read_text().strip()
