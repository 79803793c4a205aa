"""Outer ASGI middleware: checks Host, Origin and body size, and gives every reply its id, safe headers and error shape.

The checks do not depend on the address that the server listens on, since a page in a browser can reach localhost too.
Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Collection, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BadRequest, Forbidden, Internal, ServerError, TooLarge, TooMany
from server.http.error_body import error_body, text_of

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
MAX_AT_ONCE = 2000  # concurrent requests; each holds a socket, and a process has a few thousand file descriptors
LINGER_S = 2.0  # how long the rest of a too large body is discarded, so that its sender gets to read the reply
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(:(?P<port>[0-9]{1,5}))?")
FORMS = frozenset({"/v1/videos"})  # paths where OpenAI's clients send a form
FORM_TYPE = re.compile(r"multipart/form-data\s*;", re.IGNORECASE)
JSON_TYPE = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)
REPLY_HEADERS = "reply_headers"  # key in scope["state"]: headers for the reply in case the route raises an error
KEPT = ("allow", "content-range", "retry-after")  # headers that survive when a framework's error gets our shape


class BodyTooLarge(TooLarge):
    def __init__(self) -> None:
        super().__init__(text_of(413))


class Guard:
    """One instance serves the whole application. Its only state is the number of concurrent requests."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Collection[str] = (),
        allowed_origins: Collection[str] = (),
        body_timeout_s: float = BODY_TIMEOUT_S,
        max_at_once: int = MAX_AT_ONCE,
    ) -> None:
        """`allowed_hosts`: host names without port, besides localhost. `allowed_origins`: "https://app.example"."""
        self._app = app
        self._hosts = LOCAL_HOSTS | {host.lower() for host in allowed_hosts}
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._body_timeout_s = body_timeout_s
        self._max_at_once = max_at_once
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            self._at_once += 1
            try:
                with structlog.contextvars.bound_contextvars(request_id=secrets.token_hex(8)):
                    await self._answer(scope, receive, send)
            finally:
                self._at_once -= 1
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send, structlog.contextvars.get_contextvars()["request_id"], scope["path"])
        state = scope.setdefault("state", {})
        unread = True  # the connection is then closed: the rest of the body would be parsed as the next request
        try:
            if self._at_once > self._max_at_once:
                raise TooMany("Too many requests are under way at once.", retry_after_s=1)
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(scope["method"], headers)
            body = await self._read_body(headers, receive, scope["path"])
            unread = False
            if body is not None:
                await self._app(scope, _replay(body, receive), reply)
        except ServerError as error:
            extra = {**state.get(REPLY_HEADERS, {}), **_headers_of(error)}
            if not isinstance(error, Internal):
                await reply.error(error.status, error.message, extra, close=unread)
            else:
                logger.error("request failed", extra={"request_id": reply.request_id, "reason": error.message})
                await reply.error(500, error.message, extra)
            if isinstance(error, BodyTooLarge):
                await _linger(receive)
        except Exception:
            logger.exception("request failed", extra={"request_id": reply.request_id, "path": scope["path"]})
            await reply.error(500, text_of(500), close=True)
        await reply.finish()

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        match = HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if match is None or match["name"] not in self._hosts:
            raise BadRequest("This server does not answer to that Host. Add the name to the setting allowed_hosts.")

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Rejects a browser's request that was sent by a page of another origin, unless that origin is allowed."""
        origins = headers.getlist("origin")
        if origins:
            origin = origins[0].lower()
            if len(origins) > 1 or not (origin in self._origins or _host_of(origin) == headers["host"].lower()):
                raise Forbidden("Requests from that Origin are refused. Add it to the setting allowed_origins.")
        elif headers.get("sec-fetch-site") == "cross-site" and not _is_link_navigation(method, headers):
            raise Forbidden("Requests from other sites are refused. Add their origin to the setting allowed_origins.")

    async def _read_body(self, headers: Headers, receive: Receive, path: str) -> bytes | None:
        """Returns the whole body, or None when the client disconnected. All bodies are small, so none is streamed."""
        length = headers.get("content-length", "0")
        chunked = "transfer-encoding" in headers
        if length == "0" and not chunked:
            return b""
        if not re.fullmatch(r"[0-9]{1,20}", length, re.ASCII):
            raise BadRequest("Content-Length must be a number.")
        if int(length) > MAX_BODY_BYTES:
            raise BodyTooLarge
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise BadRequest("A compressed body is not accepted: send it without Content-Encoding.")
        media_type = headers.get("content-type", "").strip()
        if not JSON_TYPE.fullmatch(media_type) and not (path in FORMS and FORM_TYPE.match(media_type)):
            raise BadRequest("Content-Type must be application/json.")
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await _collect(receive)
        except TimeoutError:
            raise BadRequest(f"The body did not arrive within {self._body_timeout_s:g} seconds.") from None


async def _collect(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body first, and then the server's own messages, i.e. the disconnect."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _linger(receive: Receive) -> None:
    """Reads what the client still sends, for a moment: closing with unread bytes resets the connection, and the client
    never sees the reply.
    """
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        pass


def _host_of(origin: str) -> str | None:
    """Returns host and port of an origin in the form of a Host header, or None for "null" and invalid origins."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") and not (parts.path or parts.query) else None


def _is_link_navigation(method: str, headers: Headers) -> bool:
    """Whether a user followed a link from another site. That opens a page, and the browser sends no key."""
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )


def _headers_of(error: ServerError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, error.retry_after_s))
    elif error.status in (429, 502):
        headers["retry-after"] = "5"
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


class _Reply:
    """The `send` of one request: adds the request id and safe headers, and gives every error, also the framework's,
    our shape.
    """

    def __init__(self, send: Send, request_id: str, path: str) -> None:
        self._send = send
        self._path = path
        self.request_id = request_id
        self.started = False
        self._finished = False
        self._replaced = False  # a framework's error was replaced, and its remaining messages are dropped

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            status = message["status"]
            if status >= HTTPStatus.BAD_REQUEST and headers.get("content-type") != "application/json":
                self._replaced = True
                await self.error(status, text_of(status), {name: headers[name] for name in KEPT if name in headers})
                await self.finish()
                return
            self.started = True
            await self._send({**message, "headers": self._safe(headers).raw})
        elif not self._replaced:
            self._finished = not message.get("more_body", False)
            await self._send(message)

    async def error(self, status: int, message: str, extra: Mapping[str, str] = {}, *, close: bool = False) -> None:
        """Sends an error, but leaves the reply open until `finish`. Does nothing when a reply has started."""
        if self.started:
            return
        self.started = True
        body = error_body(status, message, self._path)
        headers = MutableHeaders({"content-type": "application/json", "content-length": str(len(body)), **extra})
        if close:
            headers["connection"] = "close"
        await self._send({"type": "http.response.start", "status": status, "headers": self._safe(headers).raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def finish(self) -> None:
        if self.started and not self._finished:
            self._finished = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _safe(self, headers: MutableHeaders) -> MutableHeaders:
        headers["x-request-id"] = self.request_id
        headers.setdefault("x-content-type-options", "nosniff")
        headers.setdefault("cache-control", "no-store")
        return headers
