"""Chats that the fake engine has received, and the replies of chat completions that it makes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from pipelines.chat_interface import ChatRequest
from server.job import Job
from tests.fakes import messages_in
from tests.support.http.front import Front


def chat_request(job: Job) -> ChatRequest:
    (request,) = job.requests
    assert isinstance(request, ChatRequest)
    return request


def messages_of(job: Job) -> list[tuple[str, str]]:
    """Returns role and content of each message that the model gets."""
    return messages_in(chat_request(job).prompt)


async def next_chat(f: Front) -> Job:
    """Waits for the next chat that the engine receives."""
    await f.engine.submitted.wait()
    f.engine.submitted.clear()
    return f.engine.jobs.popitem()[1]


async def reply_with(
    f: Front,
    body: Any,
    act: Callable[[Front, Job], None],
    key: str = "enterprise",
    *,
    path: str = "/v1/chat/completions",
) -> httpx.Response:
    """Sends a chat whose reply `act` makes."""
    f.engine.reply = None
    replying = asyncio.create_task(f.post(path, body, key))
    act(f, await next_chat(f))
    return await replying


async def failed_streams(f: Front, body: Any, path: str) -> tuple[httpx.Response, httpx.Response]:
    """Sends two streamed chats: one fails before its first text, the other one behind it."""

    def fail(text: str) -> Callable[[Front, Job], None]:
        def act(f: Front, job: Job) -> None:
            f.engine.start_job(job.id)
            if text:
                f.engine.say(job.id, text)
            f.engine.fail(job.id, "model_load_failed", "The model failed to load.")

        return act

    return await reply_with(f, body, fail(""), path=path), await reply_with(f, body, fail("Hel"), path=path)


def chunks(reply: httpx.Response) -> list[Any]:
    """Returns the chunks of a stream that has ended as it should."""
    assert reply.status_code == 200, reply.text
    blocks = reply.text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]
