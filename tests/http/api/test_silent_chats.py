"""The stream of a chat that waits, loads or reads a long prompt is not silent; and long prompts get in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from models.spec import Limits
from server.http import sse
from server.http.sse import COMMENT
from tests.fakes import FakeCatalogue, messages_in, spec
from tests.support.http.asgi import http_scope
from tests.support.http.chats import chat_request
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

PATIENCE_S = 5.0
CHATS: dict[str, dict[str, Any]] = {
    "/api/chat": {"message": "Hi", "stream": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "stream": True},
}


class Streamed:
    """The messages of a streamed reply, as they arrive."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.arrived = asyncio.Condition()

    async def send(self, message: Any) -> None:
        async with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    async def until(self, text: bytes, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S), self.arrived:
            await self.arrived.wait_for(lambda: self.text.count(text) >= times)


@asynccontextmanager
async def streamed(f: Front, path: str) -> AsyncIterator[Streamed]:
    """Sends the chat; leaves when the block ends, or when the reply does."""
    content, reply, gone = json.dumps(CHATS[path]).encode(), Streamed(), asyncio.Event()
    incoming = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content))}
    serving = asyncio.create_task(f.app(http_scope("POST", path, headers | f.auth("free")), receive, reply.send))
    try:
        yield reply
    finally:
        gone.set()
        await serving


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.001)


@pytest.mark.usefixtures("chatty")
@pytest.mark.parametrize("path", CHATS)
async def test_comments_come_before_and_between_the_pieces_of_a_reply(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        async with streamed(f, path) as reply:
            await f.engine.submitted.wait()
            await reply.until(COMMENT, times=2)
            (job_id,) = f.engine.jobs
            f.engine.start_job(job_id)
            f.engine.say(job_id, "Hello")
            await reply.until(b"Hello")
            seen = reply.text.count(COMMENT)
            await reply.until(COMMENT, times=seen + 2)
            f.engine.finish_chat(job_id, " you")
            await reply.until(b"[DONE]" if path.startswith("/v1/") else b"event: done")

    assert reply.messages[0]["status"] == 200
    assert reply.text.startswith(COMMENT)
    events = [block for block in reply.text.split(b"\n\n") if block and not block.startswith(b":")]
    assert all(block.startswith((b"data: ", b"event: ")) for block in events)


@pytest.mark.usefixtures("chatty")
@pytest.mark.parametrize("path", CHATS)
async def test_a_chat_that_fails_after_a_comment_says_so_in_its_stream(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        async with streamed(f, path) as reply:
            await f.engine.submitted.wait()
            await reply.until(COMMENT)
            f.engine.fail(next(iter(f.engine.jobs)), "engine_stopped", "The engine stopped.")
            await reply.until(b"The engine stopped.")
        await f.settle()
        used = await f.used("chats")

    last = reply.text.split(b"\n\n")[-2]
    error = json.loads(last.partition(b"data: ")[2])["error"]
    assert (error["message"] if path.startswith("/v1/") else error) == "The engine stopped."
    assert not reply.messages[-1]["more_body"]
    assert used == 0


@pytest.mark.parametrize("path", CHATS)
async def test_a_chat_that_fails_before_its_first_text_is_an_http_error(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        async with streamed(f, path) as reply:
            await f.engine.submitted.wait()
            assert reply.messages == []
            f.engine.fail(next(iter(f.engine.jobs)), "engine_stopped", "The engine stopped.")
            await reply.until(b"The engine stopped.")

    headers = dict(reply.messages[0]["headers"])
    assert reply.messages[0]["status"] == 502
    assert (headers[b"content-type"], b"retry-after" in headers) == (b"application/json", True)


@pytest.mark.parametrize("path", CHATS)
async def test_a_client_that_leaves_before_the_first_text_cancels_its_chat(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        async with streamed(f, path) as reply:
            await f.engine.submitted.wait()
        (job_id,) = f.engine.jobs

        assert f.engine.canceled == [job_id]
    assert reply.messages == []


async def test_a_prompt_of_two_mib_reaches_the_model_whole(tmp_path: Path) -> None:
    """Larger than what is parsed on the event loop."""
    text = "def add(first, second):\n    return first + second  # ä 🙂\n" * 36_000
    talker = spec("talker", "chat", limits=Limits(context_tokens=8_000_000))
    async with front(tmp_path, catalogue=FakeCatalogue(talker)) as f:
        f.engine.reply = lambda request: "Read."
        reply = await f.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
        (job,) = f.engine.jobs.values()

    assert reply.status_code == 200
    assert messages_in(chat_request(job).prompt) == [("user", text)]
