"""Completions whose prompts the fake engine scores, and which it goes on with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipelines.chat_interface import ChatRequest, TokenLogprobs, TokenText
from server.job import Job
from server.protocol import JobReplied, JobText
from tests.support.http.chats import chat_request
from tests.support.http.front import Front

PATH = "/v1/completions"


def scored(text: str, logprob: float, *likeliest: tuple[str, float]) -> TokenLogprobs:
    def token(text: str, logprob: float) -> TokenText:
        return TokenText(text, text.encode(), logprob, ord(text[0]))

    return TokenLogprobs(token(text, logprob), tuple(token(*each) for each in likeliest))


def score(request: ChatRequest) -> tuple[TokenLogprobs, ...]:
    """Each character of the prompt is a token; the likeliest in its place is "e", with -0.5."""
    tokens = [chr(token) for token in request.prompt.tokens]
    return tuple(
        scored(each, math.nan) if i == 0 else scored(each, -float(i), ("e", -0.5)) for i, each in enumerate(tokens)
    )


def answers(f: Front, texts: Sequence[str] = (" on",)) -> list[ChatRequest]:
    """Makes the fake engine score prompts and reply with tokens of one character. Returns what it was asked."""
    asked: list[ChatRequest] = []
    f.engine.reply = None
    submit = f.engine.submit

    def submit_and_finish(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        request = chat_request(job)
        asked.append(request)
        f.engine.start_job(job.id)
        if request.n_prompt_logprobs is not None:
            f.engine.deliver(JobText(job.id, "", 0.0, "prompt", score(request)))
        text = texts[(len(asked) - 1) % len(texts)][: request.max_tokens]
        for character in text:
            wanted = () if request.n_logprobs is None else (scored(character, -0.25, (character, -0.25)),)
            f.engine.say(job.id, character, logprobs=wanted)
        finish = "length" if len(text) == request.max_tokens else "stop"
        f.engine.deliver(JobReplied(job.id, text, len(request.prompt.tokens), len(text), finish))

    f.engine.submit = submit_and_finish  # type: ignore[method-assign]  # wraps the method
    return asked


async def complete(f: Front, **body: Any) -> Any:
    reply = await f.post(PATH, body)
    assert reply.status_code == 200, reply.text
    return reply.json()
