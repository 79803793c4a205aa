"""Clients without a key cannot keep others out: by silence, by slowness, by not reading, or by their number.

Deadlines are checked with a time of the future, so that no test waits for them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from server.http import front_door
from server.http.front_door import FrontDoor
from server.http.guard import Guard
from server.http.http11 import HEAD_S, KEEP_ALIVE_S, STALL_S, Http11

pytestmark = pytest.mark.anyio

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
WITH_KEY = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Key: yes\r\n\r\n"
PATIENCE_S = 10.0
MIB = 2**20

Answer = Callable[[Request], Awaitable[Response]]


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


class UntimedDoor(FrontDoor):
    """Connections are checked by the tests alone."""

    async def on_tick(self, counter: int) -> bool:
        return await uvicorn.Server.on_tick(self, counter)


class Served:
    def __init__(self, door: FrontDoor, port: int) -> None:
        self.door, self.port = door, port
        self.clients: list[Client] = []

    async def connect(self, *parts: bytes) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=MIB)
        client = Client(reader, writer)
        self.clients.append(client)
        for part in parts:
            writer.write(part)
        return client

    async def settled(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110  # of the server's connections, which tell nobody of it
                await asyncio.sleep(0.001)

    async def check_after(self, seconds: float) -> None:
        self.door.check_connections(asyncio.get_running_loop().time() + seconds)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await self.reader.readexactly(length)
        return int(head.split()[1])

    async def is_closed(self) -> bool:
        """Reads to the end of what the server sends."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(MIB):
                    pass
            except ConnectionError:
                pass
        return True


@asynccontextmanager
async def serving(answer: Answer = ok, max_descriptors: int = 60_000) -> AsyncIterator[Served]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if "x-key" in request.headers:
            scope["state"]["key"] = "a key"  # as KeyRequired does
        response = await answer(request)
        await response(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(
            Guard(app), http=Http11, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        door = UntimedDoor(config, max_descriptors=max_descriptors)
        running = asyncio.create_task(door.serve(sockets=[sock]))
        served = Served(door, sock.getsockname()[1])
        try:
            yield served
        finally:
            for client in served.clients:
                client.writer.transport.abort()
            door.should_exit = True
            await running


def n_connections(served: Served) -> int:
    return len(served.door.server_state.connections)


async def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    async with serving() as served:
        client = await served.connect()
        await served.settled(lambda: n_connections(served) == 1)
        await served.check_after(HEAD_S - 1)
        assert n_connections(served) == 1
        await served.check_after(HEAD_S + 1)

        assert await client.reader.read() == b""


async def test_a_head_that_does_not_end_is_a_408_however_its_bytes_trickle_in() -> None:
    async with serving() as served:
        client = await served.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        await served.settled(lambda: any(each._head_has_begun for each in served.door.connections()))
        await served.check_after(HEAD_S - 1)
        client.writer.write(b"X: y\r\n")
        await served.check_after(HEAD_S + 1)

        assert await client.status() == 408
        assert await client.is_closed()


async def test_a_kept_connection_may_be_idle_for_longer_but_its_next_head_may_not_take_longer() -> None:
    async with serving() as served:
        idle, slow, busy = [await served.connect(GET) for _ in range(3)]
        for client in (idle, slow, busy):
            assert await client.status() == 200
        slow.writer.write(b"GET /healthz HT")
        await served.settled(lambda: sum(each._head_has_begun for each in served.door.connections()) == 1)
        await served.check_after(HEAD_S + 1)
        busy.writer.write(GET)

        assert await slow.status() == 408
        assert await busy.status() == 200
        await served.check_after(KEEP_ALIVE_S + 1)
        assert await idle.is_closed()
        assert await busy.is_closed()


async def test_half_a_pipelined_head_has_its_deadline_too() -> None:
    async with serving() as served:
        client = await served.connect(GET + b"GET /healthz HT")
        assert await client.status() == 200
        await served.check_after(HEAD_S + 1)

        assert await client.status() == 408


async def test_a_request_under_way_has_no_deadline_here() -> None:
    go_on = asyncio.Event()

    async def slowly(request: Request) -> Response:
        await go_on.wait()
        return PlainTextResponse("ok")

    async with serving(slowly) as served:
        client = await served.connect(GET)
        await served.settled(lambda: any(not each.is_idle for each in served.door.connections()))
        await served.check_after(100 * KEEP_ALIVE_S)
        go_on.set()

        assert await client.status() == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_does_not_read_its_reply_is_cut_off(streamed: bool) -> None:
    """Also one whose connection was closed and waits for its last bytes to be taken."""
    ended = asyncio.Event()

    async def large(request: Request) -> Response:
        if not streamed:
            return PlainTextResponse(b"x" * 64 * MIB, headers={"connection": "close"})

        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
                    await asyncio.sleep(0)  # once the client is gone, nothing else waits
            finally:
                ended.set()

        return StreamingResponse(pieces())

    async with serving(large) as served:
        client = await served.connect(GET)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a read transport
        await served.settled(lambda: any(each.unsent_bytes for each in served.door.connections()))
        held = -1
        while held != (held := sum(each.unsent_bytes for each in served.door.connections())):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the kernel takes some more
        assert held <= 64 * MIB if not streamed else held < 4 * 65_536
        await served.check_after(0)
        await served.check_after(STALL_S + 1)

        await served.settled(lambda: n_connections(served) == 0)
        if streamed:
            async with asyncio.timeout(PATIENCE_S):
                await ended.wait()


async def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    async def large(request: Request) -> Response:
        return PlainTextResponse(b"x" * 64 * MIB)

    async with serving(large) as served:
        client = await served.connect(GET)
        await served.settled(lambda: any(each.unsent_bytes for each in served.door.connections()))
        n_read, minutes = 0, 0
        while before := sum(each.unsent_bytes for each in served.door.connections()):
            await served.check_after((STALL_S - 1) * minutes)
            minutes += 1
            while sum(each.unsent_bytes for each in served.door.connections()) == before:
                n_read += len(await client.reader.read(MIB))
        while n_read < 64 * MIB:
            n_read += len(await client.reader.read(MIB))

        assert minutes > 5
        assert n_connections(served) == 1


async def test_replies_that_nobody_takes_hold_a_bounded_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def large(request: Request) -> Response:
        return PlainTextResponse(b"x" * 8 * MIB)

    monkeypatch.setattr(front_door, "MOST_UNSENT_BYTES", 16 * MIB)
    async with serving(large) as served:
        for _ in range(6):
            client = await served.connect(GET)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a read transport
        await served.settled(lambda: sum(each.unsent_bytes > 0 for each in served.door.connections()) == 6)
        await served.check_after(0)

        assert sum(each.unsent_bytes for each in served.door.connections()) <= 16 * MIB
        assert any(each.unsent_bytes for each in served.door.connections())


def lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


async def test_when_descriptors_run_out_the_oldest_idle_clients_without_a_key_make_room() -> None:
    room = 120  # of descriptors, which both ends of the connections take here
    async with serving(max_descriptors=lowest_free_descriptor() + room) as served:
        known = await served.connect(WITH_KEY)
        assert await known.status() == 200
        for n in range(3 * room):
            await served.connect(b"GET /healthz HT" if n % 2 else b"")
            if n % 20 == 0:
                client = await served.connect(GET)
                assert await client.status() == 200
                client.writer.close()
            for client in served.clients[1:-8]:
                if client.reader.at_eof() or client.reader.exception():
                    client.writer.close()

        known.writer.write(WITH_KEY)
        assert await known.status() == 200


async def test_without_idle_clients_new_ones_wait_until_there_is_room_again() -> None:
    go_on = asyncio.Event()

    async def slowly(request: Request) -> Response:
        if request.url.path == "/slow":
            await go_on.wait()
        return PlainTextResponse("ok")

    slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nX-Key: yes\r\nConnection: close\r\n\r\n"
    async with serving(slowly, max_descriptors=lowest_free_descriptor() + 40) as served:
        clients = [await served.connect(slow) for _ in range(30)]
        await served.settled(lambda: served.door.servers[0]._full)  # type: ignore[attr-defined]  # of our acceptor
        taken = n_connections(served)
        assert taken < 30
        go_on.set()

        for client in clients:
            assert await client.status() == 200
            client.writer.close()


async def test_the_number_of_connections_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "MOST_CONNECTIONS", 20)
    async with serving() as served:
        for _ in range(100):
            await served.connect()
            assert n_connections(served) <= 20
        client = await served.connect(GET)

        assert await client.status() == 200


async def test_an_upgrade_is_answered_as_if_it_was_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        client = await served.connect(GET.removesuffix(b"\r\n") + upgrade)

        assert await client.status() == 200
    assert caplog.records == []
