"""Server-sent events: their encoding, and a response that streams them until they end or the client disconnects.

Event loop only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

COMMENT = b": keep-alive\n\n"


def event(name: str, content: Mapping[str, Any], event_id: int | None = None) -> bytes:
    """Encodes one event. Its data is one line, because JSON text without indentation has no line breaks."""
    numbered = "" if event_id is None else f"id: {event_id}\n"
    return f"{numbered}event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def bookmark(event_id: int) -> bytes:
    """Encodes a message that sets the client's last event id without dispatching an event."""
    return f"id: {event_id}\n\n".encode()


class EventStream(Response):
    """Sends events until they end or the client disconnects, whichever comes first."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], headers: Mapping[str, str] = {}) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        disconnecting = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            await stop(sending, disconnecting)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    """Returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
