"""uvicorn's HTTP/1.1 protocol with a strict parser, deadlines, and our error body for bytes that are not HTTP.

A connection keeps no timers: `FrontDoor` calls `check_deadlines` of each one once a second. Event loop only.
"""

from __future__ import annotations

import asyncio
import socket
from enum import IntEnum
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from server.http.error_body import error_body, text_of
from server.http.strict_parser import StrictParser

HEAD_S = 10.0  # for the head of a request, from the connection or from the first byte after another request
KEEP_ALIVE_S = 75.0  # of an idle connection that has sent a request before
STALL_S = 60.0  # a client that takes nothing of what is sent to it for this long is gone, as for nginx


class Waiting(IntEnum):
    """What a connection waits for its client for, the first to be closed when connections run out first."""

    FOR_A_REQUEST = 0  # without a valid key so far
    IN_A_REQUEST = 1  # without a valid key: the body is not all here, or the reply is not read
    KEPT_ALIVE = 2  # by a client with a valid key


class Http11(H11Protocol):
    conn: StrictParser

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = StrictParser()
        self.waiting_since = self.loop.time()
        self._deadline = self.waiting_since + HEAD_S  # of the next request's head; not looked at during a request
        self._head_has_begun = False
        self._unsent = 0  # bytes that the client has not taken, at the last look
        self._taken_at = self.waiting_since  # when the client last took some, or had none to take

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    @property
    def stalled_since(self) -> float:
        return self._taken_at

    def waiting(self) -> Waiting | None:
        """What the client lets the server wait for, or None while the server is at work, or closing the connection."""
        if self.transport.is_closing() and not self.unsent_bytes:
            return None
        has_key = self.scope is not None and self.scope["state"].get("key") is not None
        if self.transport.is_closing():
            return Waiting.IN_A_REQUEST
        if self.is_idle and not self.unsent_bytes:
            return Waiting.KEPT_ALIVE if has_key else Waiting.FOR_A_REQUEST
        waits = bool(self.unsent_bytes or self.cycle.more_body)
        return Waiting.IN_A_REQUEST if waits and not has_key else None

    def check_deadlines(self, now: float) -> None:
        """Closes a connection whose client takes too long to send a request, or to read a reply."""
        unsent = self.unsent_bytes
        if not unsent or unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        if unsent:
            if now - self._taken_at > STALL_S:
                self.transport.abort()  # `close` would wait until all is sent
        elif self.is_idle and now > self._deadline and not self.transport.is_closing():
            if self._head_has_begun:
                self._refuse(408)
            else:
                self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        # asyncio sets TCP_NODELAY only on sockets that were created with an explicit protocol. Without it, a reply
        # whose head and body are written separately takes 40 ms: Nagle's algorithm waits for a delayed
        # acknowledgement.
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.is_idle and not self._head_has_begun:
            self._begin_head()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """As uvicorn's own, with a deadline in place of a timer for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.waiting_since = self.loop.time()
        self._deadline = self.waiting_since + KEEP_ALIVE_S
        self._head_has_begun = False
        self.flow.resume_reading()
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE:
            self.conn.start_next_cycle()
            self.handle_events()  # a request that has arrived already
            if self.is_idle and self.conn.trailing_data[0]:
                self._begin_head()

    def resume_writing(self) -> None:
        self._taken_at = self.loop.time()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self.conn.refused_with)

    def _should_upgrade(self) -> bool:
        return False  # uvicorn's own logs two warnings each time

    def _begin_head(self) -> None:
        self._head_has_begun = True
        self._deadline = self.loop.time() + HEAD_S

    def _refuse(self, status: int) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the body turned out not to be HTTP: its request ends without a reply
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply has begun
            self.transport.close()
            return
        body = error_body(status, text_of(status))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
