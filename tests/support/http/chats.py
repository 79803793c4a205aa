"""Chats that the fake engine has received."""

from __future__ import annotations

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
