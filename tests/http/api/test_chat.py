"""POST /api/chat: the reply, the turns the server keeps, the stream, and who pays when it goes wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.interface import ChatRequest
from server.job import Job
from tests.support.front import Front, front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request_of(job: Job) -> ChatRequest:
    (request,) = job.requests
    assert isinstance(request, ChatRequest)
    return request


def said(job: Job) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request_of(job).messages]


async def submitted(f: Front) -> Job:
    """The next chat the engine is handed."""
    await f.engine.submitted.wait()
    f.engine.submitted.clear()
    return f.engine.jobs.popitem()[1]


async def test_the_documents_example_gets_its_reply(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/chat", {"message": "What can you help me with?"}, "free")

    assert reply.status_code == 200
    body = reply.json()
    assert body["reply"] == "You said: What can you help me with?"
    assert body["timestamp"] == "2026-11-24T09:00:00.000Z"
    assert body["usage"] == {"promptTokens": 12, "completionTokens": 5}
    assert (body["finishReason"], body["model"]) == ("stop", "talker")
    assert reply.headers["x-ratelimit-remaining"] == "49"


async def test_every_setting_reaches_the_engine_and_nothing_is_added(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        settings = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["END", "\n"]}
        await f.post("/api/chat", {"message": "Hi", **settings})
        plain = request_of(f.engine.jobs.popitem()[1])
        await f.post("/api/chat", {"message": "Hi", "system": "Be brief.", "stop": "END"})
        led = f.engine.jobs.popitem()[1]

    assert [(message.role, message.content) for message in plain.messages] == [("user", "Hi")]
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.seed, plain.stop) == (7, 0.5, 0.9, 3, ("END", "\n"))
    assert said(led) == [("system", "Be brief."), ("user", "Hi")]
    assert request_of(led).stop == ("END",)


async def test_the_settings_system_prompt_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    async with front(tmp_path, system_prompt="You are ours.") as f:
        await f.post("/api/chat", {"message": "Hi"})

        assert said(f.engine.jobs.popitem()[1])[0] == ("system", "You are ours.")


async def test_the_server_keeps_the_turns_of_a_conversation_per_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await f.post("/api/chat", {"message": "I am Ann."})).json()
        conversation = {"conversationId": first["conversationId"]}
        f.engine.jobs.clear()
        second = (await f.post("/api/chat", {"message": "Who am I?", **conversation})).json()
        mine = said(f.engine.jobs.popitem()[1])
        await f.post("/api/chat", {"message": "Who was that?", **conversation}, "other")
        foreign = said(f.engine.jobs.popitem()[1])

    assert second["conversationId"] == first["conversationId"]
    assert mine == [("user", "I am Ann."), ("assistant", "You said: I am Ann."), ("user", "Who am I?")]
    assert foreign == [("user", "Who was that?")]


async def test_a_conversation_that_outgrew_the_model_loses_its_oldest_turns(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = {"conversationId": "long"}
        for n in range(3):
            await f.post("/api/chat", {"message": f"{n}", **conversation})
        f.engine.jobs.clear()
        f.engine.submitted.clear()
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "now", **conversation}))
        whole = await submitted(f)
        f.engine.fail(whole.id, "context_overflow", "too long")
        shorter = await submitted(f)
        f.engine.finish_chat(shorter.id, "fine")
        reply = await replying

    assert [text for role, text in said(whole) if role == "user"] == ["0", "1", "2", "now"]
    assert [text for role, text in said(shorter) if role == "user"] == ["2", "now"]
    assert reply.json()["reply"] == "fine"
    assert reply.json()["warnings"] == [
        "The conversation is longer than the model's context: its oldest 4 messages were left out."
    ]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("context_overflow", 400),
        ("bad_request", 400),
        ("model_error", 500),
        ("model_load_failed", 502),
        ("out_of_memory", 502),
        ("engine_stopped", 502),
    ],
)
async def test_a_chat_that_fails_is_refunded(tmp_path: Path, code: str, status: int) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi"}, "free"))
        job = await submitted(f)
        f.engine.start_job(job.id)
        f.engine.fail(job.id, code, "It did not work.")
        reply = await replying
        await f.settle()

        assert await f.used("chats") == 0
    assert reply.status_code == status
    assert reply.json().keys() == {"error", "code"}


async def test_the_fifty_first_message_of_a_free_day_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        statuses = [(await f.post("/api/chat", {"message": "Hi"}, "free")).status_code for _ in range(51)]
        refused = await f.post("/api/chat", {"message": "Hi"}, "free")

    assert statuses == [200] * 50 + [429]
    assert "50 chat messages a day" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_place(tmp_path: Path, stream: bool) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        gone = asyncio.Event()
        sent = await _call(f, {"message": "Hi", "stream": stream}, gone)
        job = await submitted(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "He")
        gone.set()
        await sent

        assert f.engine.canceled == [job.id]
        assert f.service.chats.running_chats.event_queues == {}
        assert f.service.chats.running_chats.n_of_key == {}
        assert await f.used("chats", "enterprise") == 1  # it had begun


async def test_a_client_that_goes_away_before_its_turn_is_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        gone = asyncio.Event()
        sent = await _call(f, {"message": "Hi"}, gone)
        await submitted(f)
        gone.set()
        await sent
        await f.settle()

        assert await f.used("chats", "enterprise") == 0


async def _call(f: Front, body: dict[str, Any], gone: asyncio.Event) -> asyncio.Task[None]:
    """The application called as a server does, with a client that leaves when `gone` is set."""
    content = json.dumps(body).encode()
    headers = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {f.keys['enterprise']}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/api/chat", "raw_path": b"/api/chat", "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "client": None, "server": None,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    body_given = False

    async def receive() -> dict[str, Any]:
        nonlocal body_given
        if not body_given:
            body_given = True
            return {"type": "http.request", "body": content, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    return asyncio.create_task(f.app(scope, receive, send))  # type: ignore[arg-type]  # Starlette's types are mutable mappings


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_a_stream_is_deltas_then_the_whole(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi", "stream": True}))
        job = await submitted(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "Hel")
        f.engine.say(job.id, "lo\n\n")
        f.engine.finish_chat(job.id, "")
        reply = await replying

    told = events(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in told] == ["delta", "delta", "delta", "done"]
    assert "".join(content["text"] for name, content in told if name == "delta") == "Hello\n\n"
    assert told[-1][1].keys() >= {"reply", "timestamp", "usage"}


async def test_a_stream_that_fails_ends_with_the_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi", "stream": True}, "free"))
        job = await submitted(f)
        f.engine.fail(job.id, "engine_stopped", "The engine stopped.")
        reply = await replying
        await f.settle()

        assert await f.used("chats") == 0
    assert events(reply.text) == [("error", {"error": "The engine stopped.", "code": 502})]


async def test_an_image_model_does_not_chat(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.post("/api/chat", {"message": "Hi", "model": "painter"})).status_code == 400
        assert (await f.post("/api/chat", {"message": "Hi", "model": "nobody"})).status_code == 404
