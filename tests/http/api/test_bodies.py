"""Large bodies and streams over a real socket, through the guard, in front of an application of a few lines."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.api.deps import release_body
from server.errors import ContextTooLong, Unauthorized
from server.http import sse
from server.http.body import MIB, SMALL_BYTES
from server.http.guard import Guard
from server.http.http11 import Http11
from server.http.sse import COMMENT, EventStream

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHAT = "/v1/chat/completions"
LIMIT = 16 * MIB
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_S = 10.0

Answer = Callable[[Request], Awaitable[Response]]


async def length_of_body(request: Request) -> Response:
    """Checks the key before it reads the body, as the application does."""
    if request.headers.get("authorization") != "Bearer x":
        raise Unauthorized
    return PlainTextResponse(str(len(await request.body())))


@asynccontextmanager
async def serving(answer: Answer = length_of_body, **options: Any) -> AsyncIterator[int]:
    """Yields the port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        guard = Guard(app, **options)
        config = uvicorn.Config(
            guard, http=Http11, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await running


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def head(self) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower()

    async def reply(self) -> tuple[int, str, bytes]:
        status, head = await self.head()
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None, head
        async with asyncio.timeout(PATIENCE_S):
            return status, head, await self.reader.readexactly(int(length[1]))

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(text)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def head(*lines: str, key: str = "x", path: str = CHAT) -> bytes:
    always = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}"]
    return "\r\n".join([*always, "Content-Type: application/json", *lines, "", ""]).encode()


def chunk(n_bytes: int) -> bytes:
    return b"%x\r\n%b\r\n" % (n_bytes, b" " * n_bytes)


LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


async def test_sixteen_mib_arrive_whole_with_a_length_and_in_chunks() -> None:
    async with serving() as port, connected(port) as c:
        await c.send(head(f"Content-Length: {LIMIT}"), b" " * LIMIT)
        assert (await c.reply())[::2] == (200, str(LIMIT).encode())
        await c.send(head(CHUNKED), *[chunk(MIB)] * 16, LAST_CHUNK)  # the connection is still in use
        assert (await c.reply())[::2] == (200, str(LIMIT).encode())


async def test_the_key_is_checked_before_the_body_is_read() -> None:
    """The client has sent a few bytes of its 16 MiB, and waits."""
    async with serving() as port, connected(port) as c:
        await c.send(head(f"Content-Length: {LIMIT}", key="wrong"), b"{")
        status, headers, _ = await c.reply()

    assert status == 401
    assert "connection: close" in headers


async def test_a_client_that_sends_all_before_it_reads_gets_its_401() -> None:
    async with serving() as port, connected(port) as c:
        await c.send(head(f"Content-Length: {LIMIT}", key="wrong"), *[b" " * MIB] * 16)
        assert (await c.reply())[0] == 401
        assert await c.rest() == b""


@pytest.mark.parametrize(("key", "replies"), [("wrong", [401]), ("x", [100, 200])])
async def test_a_client_that_asks_first_is_told_to_go_on_only_with_a_key(key: str, replies: list[int]) -> None:
    async with serving() as port, connected(port) as c:
        await c.send(head(f"Content-Length: {LIMIT}", "Expect: 100-continue", key=key))
        seen = [(await c.head())[0]]
        if seen == [100]:
            await c.send(b" " * LIMIT)
            seen.append((await c.head())[0])

    assert seen == replies


async def test_the_limit_holds_while_chunks_arrive() -> None:
    async with serving() as port, connected(port) as c:
        await c.send(head(CHUNKED), *[chunk(MIB)] * 65)
        status, headers, content = await c.reply()
        await c.send(LAST_CHUNK + HIDDEN)
        assert await c.rest() == b""

    assert (status, "connection: close" in headers) == (413, True)
    assert b"larger than 64 MiB" in content
    assert b"request_too_large" in content


@pytest.mark.parametrize(("path", "limit"), [(CHAT, "64 MiB"), ("/v1/embeddings", "16 MiB"), ("/api/keys", "64 KiB")])
async def test_a_length_over_the_limit_is_refused_at_once(path: str, limit: str) -> None:
    async with serving() as port, connected(port) as c:
        await c.send(head(f"Content-Length: {64 * MIB + 1}", path=path))
        status, _, content = await c.reply()

    assert status == 413
    assert f"larger than {limit}, the limit of this address".encode() in content


async def test_large_bodies_share_a_memory_that_is_given_back() -> None:
    """Two bodies of 600 KiB do not fit into 1 MiB, one after the other they do; a small one always does."""
    n_bytes = 600 * 1024
    almost = asyncio.Event()

    async def answer(request: Request) -> Response:
        n_read = 0
        async for piece in request.stream():
            n_read += len(piece)
            if n_read >= n_bytes - 1:
                almost.set()
        return PlainTextResponse(str(n_read))

    async with serving(answer, body_memory_bytes=MIB) as port:
        async with connected(port) as first, connected(port) as second, connected(port) as small:
            await first.send(head(f"Content-Length: {n_bytes}"), b" " * (n_bytes - 1))
            await almost.wait()
            await second.send(head(f"Content-Length: {n_bytes}"), b" " * n_bytes)
            refused = await second.reply()
            await small.send(head(f"Content-Length: {SMALL_BYTES}"), b" " * SMALL_BYTES)
            assert (await small.reply())[0] == 200
            await first.send(b" ")
            assert (await first.reply())[0] == 200
        async with connected(port) as again:
            await again.send(head(f"Content-Length: {n_bytes}"), b" " * n_bytes)
            assert (await again.reply())[0] == 200

    assert refused[0] == 429
    assert re.search(r"retry-after: \d+", refused[1])
    assert b"rate_limit_exceeded" in refused[2]


async def test_a_route_that_waits_gives_the_memory_of_its_body_back() -> None:
    body = head(f"Content-Length: {600 * 1024}"), b" " * (600 * 1024)
    released, goes_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Response:
        await request.body()
        if not released.is_set():
            release_body(request)
            released.set()
            await goes_on.wait()
        return PlainTextResponse("done")

    async with serving(answer, body_memory_bytes=MIB) as port, connected(port) as first:
        await first.send(*body)
        await released.wait()
        async with connected(port) as second:
            await second.send(*body)
            assert (await second.reply())[0] == 200
        goes_on.set()
        assert (await first.reply())[0] == 200
        async with connected(port) as again:  # what was given back early is not given back twice
            await again.send(*body)
            assert (await again.reply())[0] == 200


@pytest.mark.parametrize("path", [CHAT, "/api/generate"])
async def test_a_body_that_does_not_go_on_is_cut(path: str) -> None:
    async with serving(body_timeout_s=0.1) as port, connected(port) as c:
        await c.send(head(CHUNKED, path=path), chunk(1))
        status, headers, content = await c.reply()

    assert (status, "connection: close" in headers) == (400, True)
    assert b"too slowly" in content


@pytest.mark.parametrize("path", [CHAT, "/api/generate"])
@pytest.mark.parametrize(
    "lines", [["Host: evil.example"], ["Content-Encoding: gzip"], ["Origin: https://evil.example"]]
)
async def test_an_unread_body_never_becomes_the_next_request(path: str, lines: list[str]) -> None:
    async with serving() as port, connected(port) as c:
        start = head(f"Content-Length: {len(HIDDEN)}", *lines, path=path)
        await c.send(start.replace(b"Host: localhost\r\n", b"") if "Host" in lines[0] else start, HIDDEN, HIDDEN)
        status, headers, _ = await c.reply()
        assert await c.rest() == b""

    assert status in (400, 403, 415)
    assert "connection: close" in headers


async def test_a_reply_without_the_body_read_closes_the_connection_too() -> None:
    async def careless(_: Request) -> Response:
        return PlainTextResponse("done")

    async with serving(careless) as port, connected(port) as c:
        await c.send(head(f"Content-Length: {len(HIDDEN)}"), HIDDEN[:5])
        status, headers, content = await c.reply()
        await c.send(HIDDEN[5:], HIDDEN)
        assert await c.rest() == b""

    assert (status, "connection: close" in headers, content) == (200, True, b"done")


@pytest.mark.parametrize("together", [True, False])
async def test_chunks_that_are_not_http_end_the_connection_quietly(
    together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They arrive with the head, or after the 401 of an unread body has begun."""
    async with serving() as port, connected(port) as c:
        start = head(CHUNKED, key="wrong")
        if together:
            await c.send(start + b"zz\r\n")
            assert (await c.reply())[0] == 400
        else:
            await c.send(start)
            assert (await c.reply())[0] == 401
            await c.send(b"zz\r\n")
        assert await c.rest() == b""

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_and_leaves_no_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def answer(request: Request) -> Response:
        try:
            return await length_of_body(request)
        finally:
            ended.set()

    async with serving(answer, body_memory_bytes=MIB) as port:
        async with connected(port) as c:
            await c.send(head(f"Content-Length: {MIB}"), b" " * (MIB - 1))
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        async with connected(port) as c:
            await c.send(head(f"Content-Length: {MIB}"), b" " * MIB)
            assert (await c.reply())[0] == 200

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Streams

BODY = b"{}"
STREAM = head(f"Content-Length: {len(BODY)}") + BODY


def streaming(events: Callable[[], AsyncGenerator[bytes]]) -> Answer:
    async def answer(request: Request) -> Response:
        await request.body()
        return EventStream(events())

    return answer


async def test_what_is_refused_before_the_first_event_is_an_http_error() -> None:
    async def events() -> AsyncGenerator[bytes]:
        raise ContextTooLong("This model's maximum context length is 512 tokens.")
        yield b""

    async with serving(streaming(events)) as port, connected(port) as c:
        await c.send(STREAM)
        status, headers, content = await c.reply()
        await c.send(STREAM)  # the connection goes on
        assert (await c.reply())[0] == 400

    assert (status, "content-type: application/json" in headers) == (400, True)
    assert b'"param":"messages","code":"context_length_exceeded"' in content


async def test_a_stream_speaks_before_and_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    steps = [asyncio.Event(), asyncio.Event()]

    async def events() -> AsyncGenerator[bytes]:
        for number, step in enumerate(steps):
            await step.wait()
            yield b"data: %d\n\n" % number

    async with serving(streaming(events)) as port, connected(port) as c:
        await c.send(STREAM)
        status, headers = await c.head()
        await c.until(COMMENT)
        steps[0].set()
        await c.until(b"data: 0\n\n")
        await c.until(COMMENT)
        steps[1].set()
        await c.until(b"data: 1\n\n")
        await c.until(LAST_CHUNK)

    assert (status, "text/event-stream" in headers) == (200, True)


async def test_a_client_that_leaves_its_stream_closes_the_generator() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 0\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving(streaming(events)) as port:
        async with connected(port) as c:
            await c.send(STREAM)
            await c.until(b"data: 0\n\n")
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
