"""Requests for messages of Anthropic's API, and what of them reaches the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.spec import Limits
from pipelines.chat_interface import Message
from tests.fakes import FakeCatalogue, spec
from tests.support.http.front import Front, front

SEEING = FakeCatalogue(spec("talker", "chat", takes_images=True, limits=Limits(context_tokens=65_536)))


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": message} if isinstance(message, str | list) else message for message in messages
    ]
    return {"model": "talker", "max_tokens": 9, "messages": turns or [{"role": "user", "content": "Hi"}], **fields}


def text(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


async def ask(f: Front, sent: dict[str, Any]) -> Any:
    reply = await f.post("/v1/messages", sent)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def messages_read(folder: Path, sent: dict[str, Any]) -> list[Message]:
    async with front(folder, catalogue=SEEING) as f:
        await ask(f, sent)
    return list(f.prompt_reader.messages[-1])


async def refusal(folder: Path, sent: dict[str, Any]) -> str:
    async with front(folder) as f:
        reply = await f.post("/v1/messages", sent)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), reply.text
    return str(reply.json()["error"]["message"])
