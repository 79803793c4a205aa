"""Reads event streams from the application through ASGI, message by message, as a client that may disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http.asgi import http_scope
from tests.support.http.front import Front

PATIENCE_S = 5.0


@dataclass
class Event:
    name: str
    data: Any
    id: str | None = None


@dataclass
class Reader:
    """Reads one stream. Clearing `reading` blocks the server's send, as a full socket buffer does."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    last_id: str | None = None
    comments: int = 0
    parts: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    _text: str = ""

    async def next(self) -> Event | None:
        """Returns the next event, or None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while "\n\n" not in self._text:
                    part = await self.parts.get()
                    if not part:
                        return None
                    self._text += part.decode()
                block, _, self._text = self._text.partition("\n\n")
                if (event := self._read(block)) is not None:
                    return event

    async def rest(self) -> list[Event]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def until(self, name: str) -> list[Event]:
        events = []
        while not events or events[-1].name != name:
            event = await self.next()
            assert event is not None, f"the stream ended without {name}: {events}"
            events.append(event)
        return events

    def _read(self, block: str) -> Event | None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        self.last_id = fields.get("id", self.last_id)
        self.comments += "" in fields
        if "data" not in fields:
            return None
        return Event(fields["event"], json.loads(fields["data"]), fields.get("id"))


@asynccontextmanager
async def stream(f: Front, path: str, key: str = "enterprise", **headers: str) -> AsyncIterator[Reader]:
    reader, gone = Reader(), asyncio.Event()
    reader.reading.set()
    all_headers = {"host": "localhost", **f.auth(key), **headers}
    path, _, query = path.partition("?")
    scope = http_scope("GET", path, all_headers, query)

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await reader.reading.wait()
        if message["type"] == "http.response.start":
            reader.status = message["status"]
            reader.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            started.set()
            return
        if message.get("body"):
            reader.parts.put_nowait(message["body"])
        if not message.get("more_body"):
            reader.parts.put_nowait(b"")

    started = asyncio.Event()
    serving = asyncio.create_task(f.app(scope, receive, send))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await started.wait()
        yield reader
    finally:
        gone.set()
        reader.reading.set()
        await serving
