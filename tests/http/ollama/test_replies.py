"""Ollama's /api/chat and /api/generate: the objects that come back, whole and one a line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import TokenLogprobs, TokenText, ToolCall
from server.protocol import JobReplied
from tests.fakes import FakeReply
from tests.support.http.chats import failed_streams, next_chat
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "talker", "messages": [{"role": "user", "content": "Hi"}]}
GENERATE: dict[str, Any] = {"model": "talker", "prompt": "Hi"}
ROME = ToolCall("call_1", "weather", '{"city": "Rome"}')
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


async def ask(f: Front, path: str, body: dict[str, Any], reply: FakeReply) -> httpx.Response:
    f.engine.reply = lambda _: reply
    answer = await f.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer


def lines(reply: httpx.Response) -> list[Any]:
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.text.endswith("\n")
    return [json.loads(each) for each in reply.text.splitlines()]


def without_times(said: dict[str, Any]) -> dict[str, Any]:
    assert said.pop("created_at") == "2026-11-24T09:00:00.000Z"
    return {name: value for name, value in said.items() if name not in DURATIONS}


async def test_a_chat_is_streamed_unless_it_says_otherwise(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        streamed = lines(await ask(f, "/api/chat", CHAT, FakeReply("Hello", "Hm.", (ROME,))))
        whole = (await ask(f, "/api/chat", CHAT | {"stream": False}, FakeReply("Hello", "Hm.", (ROME,)))).json()

    call = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}}
    head = {"model": "talker:latest"}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 8}
    assert [streamed[-1][name] >= 0 for name in DURATIONS] == [True] * 4
    assert streamed[-1]["load_duration"] == 3_000_000
    assert list(map(without_times, streamed)) == [
        {**head, "message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
        {**head, "message": {"role": "assistant", "content": "Hello"}, "done": False},
        {**head, "message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {**head, "message": {"role": "assistant", "content": ""}, **end},
    ]
    message = {"role": "assistant", "content": "Hello", "thinking": "Hm.", "tool_calls": [call]}
    assert without_times(whole) == {**head, "message": message, **end}


async def test_a_generated_text_is_in_the_response(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        streamed = lines(await ask(f, "/api/generate", GENERATE, FakeReply("Hello", "Hm.")))
        cut = FakeReply("Hel", finish_reason="length")
        whole = (await ask(f, "/api/generate", GENERATE | {"stream": False}, cut)).json()

    assert [(each["response"], each.get("thinking"), each["done"]) for each in streamed] == [
        ("", "Hm.", False), ("Hello", None, False), ("", None, True),
    ]  # fmt: skip
    assert (whole["response"], whole["done_reason"]) == ("Hel", "length")


async def test_times_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/generate", GENERATE | {"stream": False}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.finish_chat(job.id, "", calls=(ROME,))
        with_call = (await replying).json()
        replying = asyncio.create_task(f.post("/api/generate", GENERATE | {"stream": False}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.deliver(JobReplied(job.id, "", 12, 1, "stop"))
        silent = (await replying).json()

    assert with_call.keys() >= set(DURATIONS)
    assert silent.keys() & set(DURATIONS) == {"total_duration", "load_duration"}


async def test_arguments_that_were_cut_off_stand_beside_an_empty_object(tmp_path: Path) -> None:
    cut = FakeReply("", calls=(ToolCall("call_1", "weather", '{"city": "Ro'),), finish_reason="length")
    async with front(tmp_path) as f:
        reply = (await ask(f, "/api/chat", CHAT | {"stream": False}, cut)).json()

    (call,) = reply["message"]["tool_calls"]
    assert (call["function"]["arguments"], call["function"]["partial_json"]) == ({}, '{"city": "Ro')


async def test_log_probabilities_are_told_with_their_text(tmp_path: Path) -> None:
    token = TokenLogprobs(TokenText("Hi", b"Hi", -0.5), (TokenText("Ho", b"Ho", -1.0),))
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", CHAT | {"logprobs": True, "top_logprobs": 1}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "Hi", logprobs=(token,))
        f.engine.finish_chat(job.id, "")
        first = lines(await replying)[0]

    likeliest = [{"token": "Ho", "logprob": -1.0, "bytes": [72, 111]}]
    assert first["logprobs"] == [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": likeliest}]


async def test_a_stream_that_fails_is_an_http_error_before_its_first_line_and_a_line_after(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        before, after = await failed_streams(f, CHAT, "/api/chat")

    assert (before.status_code, before.json()["code"]) == (502, 502)
    assert lines(after)[-1] == {"error": "The model failed to load.", "code": 502}


async def test_a_silent_stream_sends_empty_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.sse.KEEP_ALIVE_S", 0.01)
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/api/chat", CHAT))
        job = await next_chat(f)
        await asyncio.wait({replying}, timeout=0.05)
        f.engine.start_job(job.id)
        f.engine.finish_chat(job.id, "Hello")
        read = lines(await replying)

    assert read[0]["message"] == {"role": "assistant", "content": ""}
    assert read[0]["done"] is False
    assert "".join(each["message"]["content"] for each in read) == "Hello"
