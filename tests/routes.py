"""Functions of a test's own that take messages too, after all others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fleet.properties import Properties
from mqtt_bridge import router
from mqtt_bridge.envelope import Reply
from mqtt_bridge.topics import Kind

Handle = Callable[[Any], Iterable[Reply]]
Also = Callable[[Handle], None]


@contextmanager
def more(monkeypatch: pytest.MonkeyPatch) -> Iterator[Also]:
    """Lets functions take telemetry, until the end of the block."""
    router.discover()
    with monkeypatch.context() as patched:

        def add(handle: Handle) -> None:
            route = router.Route(Kind.OSD, "", Properties, handle)
            patched.setattr(router, "_routes", [*router.routes(), route])
            router.find.cache_clear()

        yield add
    router.find.cache_clear()
