"""TCP ports of this machine: which are free, and which an earlier demo used."""

import itertools
import json
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
# The last one that browsers refuse to open (Fetch standard, "bad port").
REFUSED = 10_080
# Above what is reserved and below what systems hand to outgoing connections (Linux: from 32768):
# between the choice and the start of its server nobody gets such a port by chance.
OURS = range(REFUSED + 1, 32_768)


def console(text: str) -> int | None:
    """The port that the text names, if a console could have it: firmware is served on the next one."""
    is_number = text.isdecimal() and len(text) <= 5
    return int(text) if is_number and 1 <= int(text) <= 65534 else None


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
        # Servers set this too: connections that have just ended do not keep a port.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST, port))
            attempt.listen(1)
        except OSError:
            return False
    return True


def among(numbers: Sequence[int]) -> Iterator[int]:
    """Ports on which nobody listens, at random; none comes again before all the others."""
    mixed = secrets.SystemRandom().sample(numbers, len(numbers))
    yield from filter(is_free, itertools.cycle(mixed))


supply = among(OURS)


def free() -> int:
    """A port on which nobody listens; another one each time."""
    return next(supply)


def remembered(file: Path, names: list[str]) -> dict[str, int]:
    """A free port for each name: the one that the file has from last time, where it is still free."""
    ports: dict[str, int] = {}
    with suppress(OSError, ValueError):
        ports = {str(name): int(port) for name, port in dict(json.loads(file.read_text())).items()}
    for name in names:
        if name not in ports or not is_free(ports[name]):
            ports[name] = free()
    return {name: ports[name] for name in names}


def remember(file: Path, ports: Mapping[str, int]) -> None:
    """Writes them down for the next run."""
    file.write_text(json.dumps(dict(ports)))
