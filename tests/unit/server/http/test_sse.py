"""A stream starts with its first bytes, refuses what it can before them, and is never silent for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.errors import BadRequest, ContextTooLong, ServerError
from server.http import sse
from server.http.sse import COMMENT, EventStream

pytestmark = pytest.mark.anyio

PATIENCE_S = 5.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.001)


class Client:
    """Serves one stream, and keeps the messages that it sends."""

    def __init__(self, events: AsyncGenerator[bytes], path: str) -> None:
        self.sent: list[Any] = []
        self.arrived = asyncio.Condition()
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        stream = EventStream(events, {"x-mine": "1"})
        self.serving = asyncio.create_task(stream({"type": "http", "path": path}, self.receive, self.send))

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reading.wait()
        async with self.arrived:
            self.sent.append(message)
            self.arrived.notify_all()

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    async def receives(self, piece: bytes, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S), self.arrived:
            await self.arrived.wait_for(lambda: self.pieces.count(piece) >= times)


@asynccontextmanager
async def client(events: AsyncGenerator[bytes], path: str = "/api/chat") -> AsyncIterator[Client]:
    connected = Client(events, path)
    try:
        yield connected
    finally:
        connected.serving.cancel()
        await asyncio.gather(connected.serving, return_exceptions=True)


async def refused(error: Exception) -> AsyncGenerator[bytes]:
    raise error
    yield b""


async def test_nothing_is_sent_before_the_first_event() -> None:
    go = asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        await go.wait()
        yield b"a"
        yield b"b"

    async with client(events()) as c:
        await asyncio.wait({c.serving}, timeout=0.01)
        assert c.sent == []
        go.set()
        await c.serving

    assert c.sent[0]["status"] == 200
    assert (b"x-mine", b"1") in c.sent[0]["headers"]
    assert c.pieces == [b"a", b"b", b""]
    assert [message.get("more_body") for message in c.sent] == [None, True, True, False]


@pytest.mark.parametrize("error", [ContextTooLong("The prompt is too long."), ZeroDivisionError()])
async def test_an_error_before_the_first_event_leaves_the_response(error: Exception) -> None:
    async with client(refused(error)) as c:
        with pytest.raises(type(error)):
            await c.serving

    assert c.sent == []


async def test_a_stream_without_events_is_an_empty_reply() -> None:
    async def events() -> AsyncGenerator[bytes]:
        return
        yield b""

    async with client(events()) as c:
        await c.serving

    assert [message["type"] for message in c.sent] == ["http.response.start", "http.response.body"]


@pytest.mark.usefixtures("chatty")
async def test_comments_fill_the_silence_before_and_between_events() -> None:
    steps = [asyncio.Event(), asyncio.Event()]
    begun = 0

    async def events() -> AsyncGenerator[bytes]:
        nonlocal begun
        begun += 1
        await steps[0].wait()
        yield b"a"
        await steps[1].wait()
        yield b"b"

    async with client(events()) as c:
        await c.receives(COMMENT, times=2)
        steps[0].set()
        await c.receives(b"a")
        n_comments = c.pieces.count(COMMENT)
        await c.receives(COMMENT, times=n_comments + 2)
        steps[1].set()
        await c.serving

    assert begun == 1
    assert [message["type"] for message in c.sent].count("http.response.start") == 1
    assert c.pieces[:2] == [COMMENT, COMMENT]
    assert [piece for piece in c.pieces if piece != COMMENT] == [b"a", b"b", b""]


async def test_a_stream_that_speaks_gets_no_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still between events, and a comment is due only after a silence."""
    clock = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)

    async def events() -> AsyncGenerator[bytes]:
        nonlocal clock
        for _ in range(5):
            clock += sse.KEEP_ALIVE_S * 0.9
            yield b"a"
            await asyncio.sleep(0)

    async with client(events()) as c:
        await c.serving

    assert COMMENT not in c.pieces


@pytest.mark.usefixtures("chatty")
async def test_a_slow_reader_finds_no_pile_of_comments() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"a"
        yield b"b"

    async with client(events()) as c:
        c.reading.clear()
        await asyncio.wait({c.serving}, timeout=0.05)  # fifty times as long as a silence may last
        c.reading.set()
        await c.serving

    assert c.pieces.count(COMMENT) <= 1


@pytest.mark.usefixtures("chatty")
@pytest.mark.parametrize(
    ("path", "error", "expected"),
    [
        (
            "/api/chat",
            BadRequest("It does not fit."),
            b'event: error\ndata: {"error": "It does not fit.", "code": 400}\n\n',
        ),
        ("/api/chat", ZeroDivisionError("/home/x"), b'event: error\ndata: {"error": "Internal error. The log has it'),
        ("/v1/chat/completions", BadRequest("It does not fit.", param="messages"), b"data: "),
    ],
)
async def test_an_error_after_a_comment_is_an_event(path: str, error: Exception, expected: bytes) -> None:
    go = asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        await go.wait()
        raise error
        yield b""

    async with client(events(), path) as c:
        await c.receives(COMMENT)
        go.set()
        with pytest.raises(type(error)):  # the guard logs it, and ends the reply
            await c.serving

    last = c.pieces[-1]
    assert last.startswith(expected)
    assert b"/home/x" not in last
    if path.startswith("/v1/"):
        assert isinstance(error, ServerError)
        assert json.loads(last.removeprefix(b"data: ")) == {
            "error": {
                "message": error.message,
                "type": "invalid_request_error",
                "param": "messages",
                "code": None,
            }
        }


@pytest.mark.parametrize("when", ["before the first event", "between events"])
async def test_a_client_that_leaves_closes_the_generator(when: str) -> None:
    closed, waiting = asyncio.Event(), asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        try:
            if when == "between events":
                yield b"a"
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with client(events()) as c:
        await waiting.wait()
        c.gone.set()
        await c.serving

    assert closed.is_set()
    assert (c.sent == []) == (when == "before the first event")


async def test_a_refusal_wins_over_a_comment_that_is_due_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 200 that began with a comment must not take the place of the error."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.0)

    for turns in range(6):

        async def events(turns: int = turns) -> AsyncGenerator[bytes]:
            for _ in range(turns):
                await asyncio.sleep(0)
            raise BadRequest("No.")
            yield b""

        async with client(events()) as c:
            with pytest.raises(BadRequest):
                await c.serving
        if c.sent:
            assert c.pieces[-1].startswith(b"event: error")
