"""Outer ASGI middleware: checks Host, Origin and body, and gives every reply its id, safe headers and error shape.

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
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BadRequest, Forbidden, Internal, ServerError, TooMany
from server.http import cors
from server.http.body import RULES, SHARED_BYTES, SMALL_JSON, TIMEOUT_S, Body, SharedMemory, replay
from server.http.error_body import dialect_of, error_body, text_of

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 2000  # concurrent requests; each holds a socket, and a process has a few thousand file descriptors
LINGER_S = 2.0  # how long the rest of an unread body is discarded, so that its sender gets to read the reply
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(:(?P<port>[0-9]{1,5}))?")
REPLY_HEADERS = "reply_headers"  # key in scope["state"]: headers for the reply in case the route raises an error
RELEASE_BODY = "release_body"  # key in scope["state"]: gives the memory of the body back before the request ends
KEPT = ("allow", "content-range", "retry-after")  # headers that survive when a framework's error gets our shape


class Guard:
    """One instance serves the whole application. Its state is the number of concurrent requests and the memory that
    their bodies take.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Collection[str] = (),
        allowed_origins: Collection[str] = (),
        body_memory_bytes: int = SHARED_BYTES,
        body_timeout_s: float = TIMEOUT_S,
        max_at_once: int = MAX_AT_ONCE,
    ) -> None:
        """`allowed_hosts`: host names without port, besides localhost. `allowed_origins`: "https://app.example", which
        also turn CORS on. `body_memory_bytes`: for all large bodies together.
        """
        self._app = app
        self._hosts = LOCAL_HOSTS | {host.lower() for host in allowed_hosts}
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._body_memory = SharedMemory(body_memory_bytes)
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
        headers = Headers(scope=scope)
        rule = RULES.get(scope["path"], SMALL_JSON)
        state = scope.setdefault("state", {})
        body = Body(
            headers,
            receive,
            rule,
            self._body_memory,
            timeout_s=self._body_timeout_s,
            key_id=lambda: getattr(state.get("key"), "id", ""),
        )
        state[RELEASE_BODY] = body.release
        request_id = structlog.contextvars.get_contextvars()["request_id"]
        reply = _Reply(send, request_id, scope["path"], body, self._cors_headers(headers))
        try:
            if self._at_once > self._max_at_once:
                raise TooMany("Too many requests are under way at once.", retry_after_s=1)
            self._check_host(headers)
            self._check_origin(scope["method"], headers)
            if self._origins and cors.is_preflight(scope["method"], headers):
                await reply.empty(cors.preflight_headers(headers))
            else:
                body.check_headers()
                await self._pass_on(scope, receive, body, reply)
        except ClientDisconnect:
            pass
        except ServerError as error:
            await reply.refuse(error, state.get(REPLY_HEADERS, {}))
        except Exception:
            logger.exception("request failed", extra={"request_id": reply.request_id, "path": scope["path"]})
            await reply.error(500, text_of(500), close=True)
        finally:
            body.release()
        if reply.started and body.is_unread:
            await _linger(receive)
        await reply.finish()

    async def _pass_on(self, scope: Scope, receive: Receive, body: Body, reply: _Reply) -> None:
        if not body.is_read_first:
            await self._app(scope, body.receive, reply)
        elif (content := await body.read()) is not None:  # None: the client has disconnected
            await self._app(scope, replay(content, receive), reply)

    def _cors_headers(self, headers: Headers) -> Mapping[str, str]:
        """Returns what a reply to this origin has. It varies with the origin as soon as one is allowed."""
        if not self._origins:
            return {}
        origin = headers.get("origin", "")
        return {"vary": "Origin", **(cors.reply_headers(origin) if origin.lower() in self._origins else {})}

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
    our shape. While bytes of the request are unread, it announces that the connection closes, and stays open until
    `finish`.
    """

    def __init__(
        self, send: Send, request_id: str, path: str, body: Body, headers_of_origin: Mapping[str, str]
    ) -> None:
        self._send = send
        self._path = path
        self._body = body
        self._headers_of_origin = headers_of_origin
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
                return
            self.started = True
            await self._send({**message, "headers": self._safe(headers).raw})
        elif not self._replaced:
            ends = not message.get("more_body", False)
            self._finished = ends and not self._body.is_unread
            await self._send({**message, "more_body": True} if ends and not self._finished else message)

    async def empty(self, headers: Mapping[str, str]) -> None:
        headers = {"content-length": "0", **headers}
        await self({"type": "http.response.start", "status": 200, "headers": MutableHeaders(headers).raw})
        await self({"type": "http.response.body", "body": b""})

    async def refuse(self, error: ServerError, extra: Mapping[str, str]) -> None:
        if isinstance(error, Internal):
            logger.error("request failed", extra={"request_id": self.request_id, "reason": error.message})
        headers = {**extra, **_headers_of(error)}
        await self.error(error.status, error.message, headers, code=error.code, param=error.param)

    async def error(
        self,
        status: int,
        message: str,
        extra: Mapping[str, str] = {},
        *,
        code: str | None = None,
        param: str | None = None,
        close: bool = False,
    ) -> None:
        """Sends an error, but leaves the reply open until `finish`. Does nothing when a reply has started."""
        if self.started:
            return
        self.started = True
        body = error_body(status, message, self._path, code=code, param=param, request_id=self.request_id)
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
        headers["x-request-id"] = headers[dialect_of(self._path).id_header] = self.request_id
        headers.setdefault("x-content-type-options", "nosniff")
        headers.setdefault("cache-control", "no-store")
        for name, value in self._headers_of_origin.items():
            if name == "vary":
                headers.add_vary_header(value)
            else:
                headers[name] = value
        if self._body.is_unread:
            headers["connection"] = "close"
        return headers
