"""POST /v1/chat/completions: one reply to messages that the client keeps, whole or in chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.chat import unless_gone
from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
from server.api.openai.schemas import ChatCompletion, read_chat
from server.api.openai.wire import errors
from server.api.schemas import read_object
from server.api.wire import JsonObject, json_body
from server.errors import ServerError
from server.http.error_body import openai_error
from server.http.sse import EventStream
from server.jobs.artifacts import new_id
from server.jobs.submission import Allowance
from server.service.chat import ChatReply, Conversation

router = APIRouter(tags=["OpenAI"])

STREAM: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/v1/chat/completions",
    responses={200: STREAM, **errors(404, 413, 429)},
    openapi_extra=json_body(ChatCompletion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["chats"]):
        message, body = read_chat(read_object(await request.body()))
        conversation = await service.chat(key, message)
        headers = allowance_headers(service, Allowance("chats", conversation.limit, conversation.used))
        head = {"id": f"chatcmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": conversation.model}
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(_chunks(conversation, head, with_usage), headers)
        reply = await unless_gone(conversation, request.receive)
    if reply is None:
        return Response(status_code=204)  # nobody is there to read it
    message_out = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message_out, "logprobs": None, "finish_reason": reply.finish_reason}
    completion = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    return JSONResponse(completion, headers=headers)


async def _chunks(conversation: Conversation, head: JsonObject, with_usage: bool) -> AsyncGenerator[bytes]:
    """The role, the text as it is made, why it ended, the usage if asked for; `[DONE]`, unless it failed."""
    usage: JsonObject = {"usage": None} if with_usage else {}

    def chunk(delta: JsonObject, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async with aclosing(conversation.deltas(streamed=True)) as deltas:
            async for text in deltas:
                yield chunk({"content": text})
    except ServerError as error:
        yield _data(openai_error(error.status, error.message))
        return
    assert conversation.reply is not None, "deltas ends with a reply or raises"
    yield chunk({}, conversation.reply.finish_reason)
    if with_usage:
        yield _data({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(conversation.reply)})
    yield b"data: [DONE]\n\n"


def _data(content: JsonObject) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def _usage(reply: ChatReply) -> JsonObject:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
