"""POST /v1/chat/completions: the reply whole and in chunks, with thinking, choices, log probabilities and warnings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipelines.chat_interface import TokenLogprobs, TokenText
from server.job import Job
from server.protocol import JobReplied
from tests.support.http.chats import chat_request, chunks, reply_with
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]
THOUGHT = "They greet me."


def finish_chats(f: Front, *texts: str, thinking: str = "", warnings: tuple[str, ...] = ()) -> None:
    """Makes the fake engine reply to chats with `texts`, one after another."""
    f.engine.reply = None
    left = iter(texts)
    submit = f.engine.submit

    def submit_and_finish(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        f.engine.start_job(job.id)
        f.engine.finish_chat(job.id, next(left), thinking, warnings)

    f.engine.submit = submit_and_finish  # type: ignore[method-assign]  # wraps the method


async def test_a_reply_without_thinking_mentions_none(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_chats(f, "Hello!")
        reply = (await f.post("/v1/chat/completions", {"messages": HI})).json()

    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert (reply["object"], reply["model"]) == ("chat.completion", "talker")
    assert "warnings" not in reply


async def test_what_a_model_thinks_stands_beside_its_answer(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_chats(f, *["Hello!"] * 2, thinking=THOUGHT)
        whole = (await f.post("/v1/chat/completions", {"messages": HI})).json()
        streamed = chunks(await f.post("/v1/chat/completions", {"messages": HI, "stream": True}))

    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["reasoning"]) == ("Hello!", THOUGHT, THOUGHT)
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert [chunk["choices"][0]["delta"] for chunk in streamed] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": THOUGHT, "reasoning": THOUGHT},
        {"content": "Hello!"},
        {},
    ]


async def test_a_client_that_wants_no_thinking_gets_none_but_is_told_its_tokens(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_chats(f, *["Hello!"] * 2, thinking=THOUGHT)
        body = {"messages": HI, "reasoning": {"exclude": True}}
        whole = await f.post("/v1/chat/completions", body)
        streamed = await f.post("/v1/chat/completions", body | {"stream": True})

    assert THOUGHT not in whole.text + streamed.text
    assert whole.json()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks(streamed)] == ["", "Hello!", None]


async def test_every_choice_has_its_own_chunks_and_finish_reason(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_chats(f, "One", "Two", "One", "Two")
        body = {"messages": HI, "n": 2, "seed": 5}
        whole = (await f.post("/v1/chat/completions", body)).json()
        seeds = {chat_request(job).seed for job in f.engine.jobs.values()}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *streamed, usage = chunks(await f.post("/v1/chat/completions", body | options))

    assert [(choice["index"], choice["message"]["content"]) for choice in whole["choices"]] == [(0, "One"), (1, "Two")]
    assert seeds == {5, 6}
    for index, text in enumerate(("One", "Two")):
        own = [chunk["choices"][0] for chunk in streamed if chunk["choices"][0]["index"] == index]
        assert [choice["delta"] for choice in own] == [{"role": "assistant", "content": ""}, {"content": text}, {}]
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]
    assert all(chunk["usage"] is None for chunk in streamed)
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert usage["usage"]["completion_tokens"] == 10


async def test_log_probabilities_are_reported_as_openai_does(tmp_path: Path) -> None:
    half = TokenText("", b"\xf0\x9f", -math.inf)
    token = TokenLogprobs(TokenText("He", b"He", -0.5), (TokenText("He", b"He", -0.5), half))

    def say(f: Front, job: Job) -> None:
        f.engine.start_job(job.id)
        f.engine.say(job.id, "He", "content", (token,))
        f.engine.finish_chat(job.id, "")

    async with front(tmp_path) as f:
        body = {"messages": HI, "logprobs": True, "top_logprobs": 2}
        whole = (await reply_with(f, body, say)).json()
        streamed = chunks(await reply_with(f, body | {"stream": True}, say))
        finish_chats(f, "", "")
        empty = (await f.post("/v1/chat/completions", body)).json()

    expected = {
        "token": "He",
        "logprob": -0.5,
        "bytes": [72, 101],
        "top_logprobs": [
            {"token": "He", "logprob": -0.5, "bytes": [72, 101]},
            {"token": "bytes:\\xf0\\x9f", "logprob": -9999.0, "bytes": [240, 159]},
        ],
    }
    assert whole["choices"][0]["logprobs"] == {"content": [expected], "refusal": None}
    assert [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["delta"].get("content") == "He"] == [
        {"content": [expected], "refusal": None}
    ]
    assert empty["choices"][0]["logprobs"] == {"content": [], "refusal": None}


async def test_warnings_are_in_the_reply_and_in_the_last_chunk_with_a_choice(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_chats(f, *["Hello!"] * 2, warnings=("max_tokens was 9: the context leaves 5.",))
        body = {"messages": HI, "store": True}
        whole = (await f.post("/v1/chat/completions", body)).json()
        *others, last = chunks(await f.post("/v1/chat/completions", body | {"stream": True}))

    assert len(whole["warnings"]) == 2
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["warnings"] == whole["warnings"]
    assert all("warnings" not in chunk for chunk in others)


async def test_an_empty_reply_has_a_role_and_an_end(tmp_path: Path) -> None:
    def say_nothing(f: Front, job: Job) -> None:
        f.engine.start_job(job.id)
        f.engine.deliver(JobReplied(job.id, "", 12, 1, "stop"))

    async with front(tmp_path) as f:
        streamed = chunks(await reply_with(f, {"messages": HI, "stream": True}, say_nothing))

    assert [chunk["choices"][0]["delta"] for chunk in streamed] == [{"role": "assistant", "content": ""}, {}]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_fails_is_an_http_error_until_its_first_chunk(tmp_path: Path, begun: bool) -> None:
    def fail(f: Front, job: Job) -> None:
        if begun:
            f.engine.say(job.id, "He")
        f.engine.fail(job.id, "engine_stopped", "The engine stopped.")

    async with front(tmp_path) as f:
        reply = await reply_with(f, {"messages": HI, "stream": True}, fail, "free")
        await f.settle()

        assert await f.used("chats") == 0
    assert reply.status_code == (200 if begun else 502)
    error = json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert (error["message"], error["type"]) == ("The engine stopped.", "server_error")
    assert "[DONE]" not in reply.text


async def test_a_prompt_that_the_device_has_no_room_for_is_refused_before_the_stream(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        body = {"messages": HI, "stream": True}
        reply = await reply_with(f, body, lambda f, job: f.engine.fail(job.id, "context_overflow", "Too long."), "free")

    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert reply.headers["x-ratelimit-limit"] == "50"


async def test_all_fields_reach_the_engine(tmp_path: Path) -> None:
    settings = {
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "stop": ("END",),
        "min_tokens": 2, "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    }  # fmt: skip
    further = {"stop_token_ids": [4], "ignore_eos": True, "logit_bias": {"6": 2}, "logprobs": True, "top_logprobs": 3}
    async with front(tmp_path) as f:
        await f.post("/v1/chat/completions", {"messages": HI, "reasoning_effort": "low", **settings, **further})
        request = chat_request(f.engine.jobs.popitem()[1])
        (options,) = f.prompt_reader.options

    assert {name: getattr(request, name) for name in settings} == settings
    assert (request.stop_tokens, request.ignores_end, request.logit_bias) == ((4,), True, ((6, 2.0),))
    assert (request.n_logprobs, request.max_thinking_tokens, options.effort) == (3, None, "low")


async def test_a_large_conversation_is_read(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        long = [{"role": "user", "content": "x" * 3_000_000}]
        accepted = await f.post("/v1/chat/completions", {"messages": long})
        refused = await f.post("/v1/chat/completions", {"messages": long, "n": 0})

    assert (accepted.status_code, accepted.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
