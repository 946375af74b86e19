"""A tiny cloud for the docks under test: answers their requests, remembers what they say, serves files."""

import asyncio
import hashlib
import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import aiomqtt

from simulator.ending import end
from simulator.packages import build
from simulator.specs import GENERATIONS, DockSpec

NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


@dataclass(frozen=True)
class Said:
    """One message of a dock: topic, and the payload as parsed JSON."""

    topic: str
    payload: dict[str, Any]

    @property
    def sn(self) -> str:
        return self.topic.split("/")[2]

    @property
    def kind(self) -> str:
        return self.topic.split("/", 3)[3]

    @property
    def method(self) -> str:
        return str(self.payload.get("method", ""))

    @property
    def data(self) -> Any:
        return self.payload["data"]


@dataclass
class Cloud:
    """Answers like a server that knows no dock; `is_mute` makes it only listen.

    `spoiled` replaces parts of the replies to a method.
    """

    client: aiomqtt.Client
    is_mute: bool = False
    said: list[Said] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)
    spoiled: dict[str, dict[str, Any]] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def listen(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            said = Said(message.topic.value, json.loads(message.payload))
            if said.kind in {"services", "requests_reply", "status_reply", "events_reply"}:
                continue
            async with self._news:
                self.said.append(said)
                self._news.notify_all()
            if not self.is_mute:
                await self._answer(said)

    async def until(self, wanted: Callable[[Said], bool], count: int = 1) -> Said:
        """Return the `count`th message that is wanted, past ones included."""
        async with asyncio.timeout(120), self._news:
            await self._news.wait_for(lambda: len(self.all(wanted)) >= count)
        return self.all(wanted)[count - 1]

    def all(self, wanted: Callable[[Said], bool]) -> list[Said]:
        return [said for said in self.said if wanted(said)]

    async def command(self, sn: str, method: str, data: object, bid: str = "b-1") -> Said:
        """Send a command and return the dock's reply."""
        await self.send(sn, method, data, tid=f"t-{bid}", bid=bid)
        return await self.until(
            lambda said: said.kind == "services_reply" and said.payload["tid"] == f"t-{bid}"
        )

    async def send(self, sn: str, method: str, data: object, **ids: str) -> None:
        """Send a command with the `ids` that are given: `tid` and `bid`, where nothing is wrong."""
        message = ids | {"timestamp": 0, "method": method, "data": data}
        await self.client.publish(f"thing/product/{sn}/services", json.dumps(message), qos=1)

    async def _answer(self, said: Said) -> None:
        if said.kind == "status" or said.payload.get("need_reply") == 1:
            await self._reply(said, {"result": 0})
        elif said.kind == "requests":
            await self._reply(said, self._output(said))

    def _output(self, said: Said) -> dict[str, Any]:
        match said.method:
            case "config":
                return {"app_id": "1", "app_key": "k", "app_license": "l"}
            case "airport_bind_status":
                return {
                    "result": 0,
                    "output": {"bind_status": [self._status(d) for d in said.data["devices"]]},
                }
            case "airport_organization_bind":
                self.bound.update(device["sn"] for device in said.data["bind_devices"])
                return {"result": 0, "output": {"err_infos": []}}
            case _:
                return {"result": 0, "output": {}}

    def _status(self, device: dict[str, str]) -> dict[str, Any]:
        return {"sn": device["sn"], "is_device_bind_organization": device["sn"] in self.bound}

    async def _reply(self, said: Said, data: dict[str, Any]) -> None:
        reply = {key: said.payload[key] for key in ("tid", "bid", "method")}
        reply |= {"timestamp": 0, "data": data} | self.spoiled.get(said.method, {})
        await self.client.publish(f"{said.topic}_reply", json.dumps(reply))


@asynccontextmanager
async def cloud(port: int) -> AsyncIterator[Cloud]:
    async with aiomqtt.Client("127.0.0.1", port, socket_options=NO_DELAY) as client:
        await client.subscribe("#", qos=1)
        server = Cloud(client)
        listening = asyncio.create_task(server.listen())
        try:
            yield server
        finally:
            await end([listening])


@cache
def package(series: str, version: str) -> bytes:
    """Return a package of 120 000 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder), series, version, date(2024, 11, 7), 120_000).read_bytes()


def series_of(sn: str) -> str:
    """Return the series of a simulated device."""
    series = {each.sn_prefix: each.dock_series for each in GENERATIONS}
    series |= {each.aircraft_sn_prefix: each.aircraft_series for each in GENERATIONS}
    return series[sn[:-4]]


@dataclass
class FileServer:
    """Serves files with ranges; `cuts` answers break off after half of their bytes.

    To the first `busy` GETs it answers 503, to come back at once.
    """

    port: int = 0
    cuts: int = 0
    status: int = 0
    busy: int = 0
    ignores_ranges: bool = False
    refuses_head: bool = False
    requests: list[str] = field(default_factory=list)
    _files: dict[str, bytes] = field(default_factory=dict)

    def target(self, sn: str, version: str, **changes: object) -> dict[str, object]:
        """Return a valid entry of `ota_create` for the device `sn`, and serve its package."""
        return self.holding(package(series_of(sn), version), sn, version, **changes)

    def holding(
        self, content: bytes, sn: str, version: str, **changes: object
    ) -> dict[str, object]:
        """Return an entry of `ota_create` whose file holds `content`, and serve that."""
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self._files[f"/{md5}.zip"] = content
        return {
            "sn": sn,
            "product_version": version,
            "file_url": f"http://127.0.0.1:{self.port}/{md5}.zip?sig=x",
            "md5": md5,
            "file_size": len(content),
            "file_name": "any.zip",
            "firmware_upgrade_type": 3,
        } | changes

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        self.requests.append(head)
        status, body, length = self._answer(head)
        retry = "Retry-After: 0\r\n" if status == 503 else ""
        writer.write(
            f"HTTP/1.1 {status} X\r\n{retry}Content-Length: {length}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        writer.close()

    def _answer(self, head: str) -> tuple[int, bytes, int]:
        if self.status:
            return self.status, b"", 0
        content = self._files[head.split()[1].partition("?")[0]]
        if head.startswith("HEAD"):
            return (403, b"", 0) if self.refuses_head else (200, b"", len(content))
        if self.busy:
            self.busy -= 1
            return 503, b"", 0
        status, body = self._slice(head, content)
        is_cut, self.cuts = self.cuts > 0, max(0, self.cuts - 1)
        return status, body[: len(body) // 2] if is_cut else body, len(body)

    def _slice(self, head: str, content: bytes) -> tuple[int, bytes]:
        wanted = re.search(r"range: bytes=(\d+)-(\d+)", head, re.IGNORECASE)
        if self.ignores_ranges or wanted is None:
            return 200, content
        return 206, content[int(wanted[1]) : int(wanted[2]) + 1]


@asynccontextmanager
async def file_server() -> AsyncIterator[FileServer]:
    files = FileServer()
    listener = await asyncio.start_server(files.handle, "127.0.0.1", 0)
    files.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield files


def both(files: FileServer, spec: DockSpec, version: str = "10.01.9999") -> dict[str, object]:
    """Return the data of an `ota_create` for the dock and its aircraft."""
    return {"devices": [files.target(sn, version) for sn in (spec.aircraft_sn, spec.sn)]}
