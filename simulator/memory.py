"""Remembers the firmware of each device over a restart of the simulator."""

from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True)
class Remembered:
    """Version (NN.NN.NNNN) and `compatible_status` that a device had reached."""

    version: str
    compatible_status: int


class Memory:
    """A JSON file `{sn: {version, compatible_status}}`, written as a whole; without a path nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        """Read `path` if it exists. Raises ValueError when that cannot be done, or it has no folder."""
        self._path = path
        self._devices = _read(path) if path else {}

    def recall(self, sn: str) -> Remembered | None:
        return self._devices.get(sn)

    def remember(self, sn: str, version: str, compatible_status: int) -> None:
        self._devices[sn] = Remembered(version, compatible_status)

    def save(self) -> None:
        """Write the file through a neighbour, so that a reader never meets half of it."""
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self._devices)))
        part.replace(self._path)


def _read(path: Path) -> dict[str, Remembered]:
    try:
        if not path.parent.is_dir():
            raise ValueError(f"There is no folder {path.parent} for the state file.")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Remembered])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not a state file of the simulator: {error}") from error
