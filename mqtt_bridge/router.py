"""Which handler takes which message; every room brings a ``handlers.py``.

As the URLconf is to HTTP: ``@on(Kind.EVENTS, "ota_progress", data=OtaProgress)`` above a function
that takes all messages of that kind in a batch, in the order of their arrival, and gives replies.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from django.utils.module_loading import autodiscover_modules

from mqtt_bridge.envelope import Message, Reply
from mqtt_bridge.topics import Kind

T = TypeVar("T")
Handler = Callable[[Sequence[Message[T]]], Iterable[Reply]]
Unless = Callable[[Message[T]], bool]

ANY = "*"


class Route(NamedTuple):
    """A handler and what it takes; ``method`` may be ``ANY`` for what nobody else takes.

    ``unless`` tells of a message that it says nothing new, before any database work; then no
    handler sees it.
    """

    kind: Kind
    method: str
    data: type
    handler: Handler[Any]
    unless: Unless[Any] | None = None


# Properties have no method; one that is told all the same means nothing.
_WITHOUT_METHOD = {Kind.OSD, Kind.STATE}

_routes: list[Route] = []


def on(
    kind: Kind, method: str = "", *, data: type[T], unless: Unless[T] | None = None
) -> Callable[[Handler[T]], Handler[T]]:
    """Registers a handler for messages of a kind and, where the kind has them, a method."""

    def register(handler: Handler[T]) -> Handler[T]:
        _routes.append(Route(kind, method, data, handler, unless))
        find.cache_clear()
        return handler

    return register


def discover() -> None:
    """Imports every installed application's ``handlers``, in their order."""
    autodiscover_modules("handlers")


def routes() -> list[Route]:
    """All routes in the order in which a batch runs through them."""
    return list(_routes)


@functools.lru_cache(1000)  # devices may make up methods for ever
def find(kind: Kind, method: str) -> Sequence[Route]:
    """The routes of a message: those of its method, else those that take any."""
    if kind in _WITHOUT_METHOD:
        method = ""
    exact = [route for route in _routes if route.kind is kind and route.method == method]
    return exact or [route for route in _routes if route.kind is kind and route.method == ANY]
