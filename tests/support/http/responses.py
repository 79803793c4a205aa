"""Requests for responses, whose replies the fake engine makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from server.job import Job
from tests.support.http import chats
from tests.support.http.front import Front

URL = "/v1/responses"


def events(reply: httpx.Response) -> list[Any]:
    """Returns the events of a stream, whose names and numbers must be right."""
    assert reply.status_code == 200, reply.text
    found = []
    for number, block in enumerate(reply.text.strip().split("\n\n")):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == number
    return found


async def post(f: Front, body: Any, key: str = "enterprise") -> Any:
    reply = await f.post(URL, {"input": "Hi"} | body, key)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def refused(f: Front, body: Any, status: int = 400) -> Any:
    reply = await f.post(URL, body)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


async def reply_with(f: Front, body: Any, act: Callable[[Front, Job], None], key: str = "enterprise") -> httpx.Response:
    """Sends a request whose reply `act` makes."""
    return await chats.reply_with(f, {"input": "Hi"} | body, act, key, path=URL)
