"""Server-sent events: their encoding, and a response that streams them until they end or the client disconnects.

The response starts with its first bytes, so that whatever is refused before is an ordinary error. A stream that has
nothing to say sends comments, because proxies close connections that are silent for 30 s or 60 s. Event loop only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import Internal, ServerError
from server.http.error_body import stream_error, text_of

T = TypeVar("T")

COMMENT = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0  # longest silence of a stream


def event(name: str, content: Mapping[str, Any], event_id: int | None = None) -> bytes:
    """Encodes one event. Its data is one line, because JSON text without indentation has no line breaks."""
    numbered = "" if event_id is None else f"id: {event_id}\n"
    return f"{numbered}event: {name}\n".encode() + data(content)


def data(content: Mapping[str, Any]) -> bytes:
    """Encodes an event without a name, as OpenAI's API sends them."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def bookmark(event_id: int) -> bytes:
    """Encodes a message that sets the client's last event id without dispatching an event."""
    return f"id: {event_id}\n\n".encode()


class EventStream(Response):
    """Sends events until they end or the client disconnects, whichever comes first.

    An error that the generator raises before its first event leaves this response, and the guard answers it. An error
    after the first bytes is sent as an event, in the shape of the errors at this path, and ends the stream.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        headers: Mapping[str, str] = {},
        error_event: Callable[[ServerError], bytes] | None = None,
        comment: bytes = COMMENT,
    ) -> None:
        """error_event: encodes the event of an error, where the path does not tell it. comment: sent in silence."""
        self._events = events
        self._error_event = error_event
        self._comment = comment
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = _Wire(send, self.raw_headers, self._comment)
        sending = asyncio.ensure_future(self._send_all(wire, scope["path"]))
        disconnecting = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            await stop(sending, disconnecting)

    async def _send_all(self, wire: _Wire, path: str) -> None:
        keeping_alive = asyncio.ensure_future(wire.keep_alive())
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await wire.write(event)
        except Exception as error:
            await stop(keeping_alive)  # no comment may start the reply from here on
            if wire.started:
                known = error if isinstance(error, ServerError) else Internal(text_of(500))
                await wire.write(self._error_event(known) if self._error_event else _error_event(known, path))
            raise
        finally:
            await stop(keeping_alive)
        await wire.end()


class _Wire:
    """The reply of one stream. Events and comments are written by two tasks, and take turns."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], comment: bytes) -> None:
        self._send = send
        self._headers = headers
        self._comment = comment
        self._turn = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._written_at = self._now()
        self.started = False

    async def write(self, content: bytes) -> None:
        async with self._turn:
            await self._write(content)

    async def end(self) -> None:
        async with self._turn:
            await self._write(b"", more=False)

    async def keep_alive(self) -> None:
        """Writes a comment whenever nothing was written for `KEEP_ALIVE_S`, for ever."""
        while True:
            await asyncio.sleep(self._written_at + KEEP_ALIVE_S - self._now())
            async with self._turn:
                if self._now() - self._written_at >= KEEP_ALIVE_S:
                    await self._write(self._comment)

    async def _write(self, content: bytes, *, more: bool = True) -> None:
        if not self.started:
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self.started = True
        await self._send({"type": "http.response.body", "body": content, "more_body": more})
        self._written_at = self._now()


def _error_event(error: ServerError, path: str) -> bytes:
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    name, content = stream_error(error, path, request_id)
    return data(content) if name is None else event(name, content)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """Returns the result of `work`, or None when the client disconnected first; `work` has been canceled then."""
    working, disconnecting = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        await stop(working, disconnecting)


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
