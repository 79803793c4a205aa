"""POST /api/chat: the reply, the stored messages, the stream, and refunds of failed chats."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import messages_in
from tests.support.http.asgi import start_post
from tests.support.http.chats import chat_request, messages_of, next_chat
from tests.support.http.front import front

pytestmark = pytest.mark.anyio


async def test_the_documented_example_gets_a_reply(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/chat", {"message": "What can you help me with?"}, "free")

    assert reply.status_code == 200
    body = reply.json()
    assert body["reply"] == "You said: What can you help me with?"
    assert body["timestamp"] == "2026-11-24T09:00:00.000Z"
    assert body["usage"] == {"promptTokens": 12, "completionTokens": 5, "thinkingTokens": 0}
    assert "thinking" not in body
    assert (body["finishReason"], body["model"]) == ("stop", "talker")
    assert reply.headers["x-ratelimit-remaining"] == "49"


async def test_every_option_reaches_the_engine_unchanged(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        settings = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["END", "\n"]}
        settings |= {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.5}
        await f.post("/api/chat", {"message": "Hi", **settings})
        plain = chat_request(f.engine.jobs.popitem()[1])
        await f.post("/api/chat", {"message": "Hi", "system": "Be brief.", "stop": "END"})
        with_system = f.engine.jobs.popitem()[1]

    assert messages_in(plain.prompt) == [("user", "Hi")]
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.seed, plain.stop) == (7, 0.5, 0.9, 3, ("END", "\n"))
    assert (plain.top_k, plain.min_p, plain.repetition_penalty) == (5, 0.1, 1.5)
    assert messages_of(with_system) == [("system", "Be brief."), ("user", "Hi")]
    assert chat_request(with_system).stop == ("END",)


async def test_the_configured_system_prompt_is_used_when_a_request_has_none(tmp_path: Path) -> None:
    async with front(tmp_path, system_prompt="You are ours.") as f:
        await f.post("/api/chat", {"message": "Hi"})

        assert messages_of(f.engine.jobs.popitem()[1])[0] == ("system", "You are ours.")


async def test_the_server_stores_the_messages_of_a_conversation_per_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await f.post("/api/chat", {"message": "I am Ann."})).json()
        conversation = {"conversationId": first["conversationId"]}
        f.engine.jobs.clear()
        second = (await f.post("/api/chat", {"message": "Who am I?", **conversation})).json()
        mine = messages_of(f.engine.jobs.popitem()[1])
        await f.post("/api/chat", {"message": "Who was that?", **conversation}, "other")
        foreign = messages_of(f.engine.jobs.popitem()[1])

    assert second["conversationId"] == first["conversationId"]
    assert mine == [("user", "I am Ann."), ("assistant", "You said: I am Ann."), ("user", "Who am I?")]
    assert foreign == [("user", "Who was that?")]


async def test_a_conversation_longer_than_the_context_drops_its_oldest_messages(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = {"conversationId": "long"}
        for n in range(3):
            await f.post("/api/chat", {"message": f"{n}", **conversation})
        f.engine.jobs.clear()
        f.engine.submitted.clear()
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "now", **conversation}))
        whole = await next_chat(f)
        f.engine.fail(whole.id, "context_overflow", "too long")
        shorter = await next_chat(f)
        f.engine.finish_chat(shorter.id, "fine")
        reply = await replying

    assert [text for role, text in messages_of(whole) if role == "user"] == ["0", "1", "2", "now"]
    assert [text for role, text in messages_of(shorter) if role == "user"] == ["2", "now"]
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
async def test_a_failed_chat_is_refunded(tmp_path: Path, code: str, status: int) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi"}, "free"))
        job = await next_chat(f)
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
async def test_a_client_that_disconnects_cancels_its_chat(tmp_path: Path, stream: bool) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        disconnected = asyncio.Event()
        sent = start_post(f, "/api/chat", {"message": "Hi", "stream": stream}, disconnected)
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "He")
        disconnected.set()
        await sent

        assert f.engine.canceled == [job.id]
        assert f.service.chats.running_chats.event_queues == {}
        assert f.service.chats.running_chats.n_of_key == {}
        assert await f.used("chats", "enterprise") == 1  # a started chat is not refunded


async def test_a_client_that_disconnects_before_its_chat_starts_is_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        disconnected = asyncio.Event()
        sent = start_post(f, "/api/chat", {"message": "Hi"}, disconnected)
        await next_chat(f)
        disconnected.set()
        await sent
        await f.settle()

        assert await f.used("chats", "enterprise") == 0


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_a_stream_has_deltas_and_then_the_whole_reply(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi", "stream": True}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "Hel")
        f.engine.say(job.id, "lo\n\n")
        f.engine.finish_chat(job.id, "")
        reply = await replying

    received = events(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in received] == ["delta", "delta", "delta", "done"]
    assert "".join(content["text"] for name, content in received if name == "delta") == "Hello\n\n"
    assert received[-1][1].keys() >= {"reply", "timestamp", "usage"}


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_fails_is_an_error_and_after_its_first_text_an_error_event(
    tmp_path: Path, begun: bool
) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi", "stream": True}, "free"))
        job = await next_chat(f)
        if begun:
            f.engine.say(job.id, "He")
        f.engine.fail(job.id, "engine_stopped", "The engine stopped.")
        reply = await replying
        await f.settle()

        assert await f.used("chats") == 0
    error = {"error": "The engine stopped.", "code": 502}
    if begun:
        assert (reply.status_code, events(reply.text)) == (200, [("delta", {"text": "He"}), ("error", error)])
    else:
        assert (reply.status_code, reply.json()) == (502, error)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_model_thinks_stands_beside_its_reply(tmp_path: Path, stream: bool) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", {"message": "Hi", "stream": stream}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.finish_chat(job.id, "Hello!", "They greet me.")
        reply = await replying

    whole = events(reply.text)[-1][1] if stream else reply.json()
    assert (whole["reply"], whole["thinking"]) == ("Hello!", "They greet me.")
    assert whole["usage"] == {"promptTokens": 12, "completionTokens": 8, "thinkingTokens": 3}
    if stream:
        assert events(reply.text)[:-1] == [("thinking", {"text": "They greet me."}), ("delta", {"text": "Hello!"})]


@pytest.mark.parametrize(
    ("thinking", "effort", "variables"),
    [
        (None, None, {}),
        (True, None, {"enable_thinking": True, "thinking": True}),
        (False, "none", {}),
        ("low", "low", {}),
        ("high", "high", {}),
    ],
)
async def test_thinking_reaches_the_template(tmp_path: Path, thinking: Any, effort: str | None, variables: Any) -> None:
    async with front(tmp_path) as f:
        await f.post("/api/chat", {"message": "Hi", "thinking": thinking})
        (options,) = f.prompt_reader.options

    assert (options.effort, options.template_variables) == (effort, variables)


async def test_a_limit_of_thinking_is_the_requests_or_that_of_the_effort(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.prompt_reader.max_thinking_tokens = 256
        await f.post("/api/chat", {"message": "Hi", "thinking": "low"})
        by_effort = chat_request(f.engine.jobs.popitem()[1])
        body = {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": "low", "thinking_budget": 9}
        await f.post("/v1/chat/completions", body)
        by_request = chat_request(f.engine.jobs.popitem()[1])

    assert (by_effort.max_thinking_tokens, by_request.max_thinking_tokens) == (256, 9)


async def test_an_image_model_is_refused_for_chat(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.post("/api/chat", {"message": "Hi", "model": "painter"})).status_code == 400
        assert (await f.post("/api/chat", {"message": "Hi", "model": "nobody"})).status_code == 404


async def test_chats_that_come_all_at_once_get_no_more_than_the_plan_allows(tmp_path: Path) -> None:
    """Ten may run at once. Between its check and its start, a chat is charged in the store."""
    async with front(tmp_path) as f:
        f.engine.reply = None
        sent = [asyncio.create_task(f.post("/api/chat", {"message": "Hi"}, "free")) for _ in range(30)]
        ended: set[asyncio.Task[Any]] = set()
        while len(ended) < 20:
            ended |= (await asyncio.wait(set(sent) - ended, return_when=asyncio.FIRST_COMPLETED))[0]
        while len(f.engine.jobs) < 10:
            await f.engine.submitted.wait()
            f.engine.submitted.clear()
        for job_id in list(f.engine.jobs):
            f.engine.finish_chat(job_id, "Hello")
        statuses = [(await task).status_code for task in sent]

        assert (statuses.count(200), statuses.count(429)) == (10, 20)
        assert await f.used("chats", "free") == 10
        assert f.service.chats.running_chats.n_of_key == {}
