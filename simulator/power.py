"""Whether a dock is on, and who waits for a change of it."""

import asyncio


class Power:
    """A switch that can be waited for in both directions."""

    def __init__(self) -> None:
        self._on = asyncio.Event()
        self._off = asyncio.Event()
        self._on.set()

    @property
    def is_on(self) -> bool:
        return self._on.is_set()

    def turn_on(self) -> None:
        self._off.clear()
        self._on.set()

    def turn_off(self) -> None:
        self._on.clear()
        self._off.set()

    async def wait_on(self) -> None:
        await self._on.wait()

    async def wait_off(self) -> None:
        await self._off.wait()
