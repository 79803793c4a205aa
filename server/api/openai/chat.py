"""POST /v1/chat/completions: replies to a list of messages that the client keeps itself, whole or in chunks.

Event loop only.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.usage import Allowance
from server.api.chat import reply_unless_disconnected
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.schemas import ChatCompletion, read_chat
from server.api.openai.wire import errors
from server.api.schemas import read_object
from server.api.wire import JsonObject, json_body
from server.errors import ServerError
from server.http.error_body import openai_error
from server.http.sse import EventStream
from server.jobs.artifacts import new_id
from server.service.chat_turn import ChatReply, ChatTurn

router = APIRouter(tags=["OpenAI"])

STREAM: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/v1/chat/completions",
    responses={200: STREAM, **errors(404, 413, 429)},
    openapi_extra=json_body(ChatCompletion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to a list of messages as OpenAI's chat completions do; with `stream`, sends the reply in chunks."""
    async with allowance_on_error(request, service, key, ["chats"]):
        message, body = read_chat(read_object(await request.body()))
        turn = await service.chats.open(key, message)
        headers = allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))
        head = {"id": f"chatcmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": turn.model}
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(_chunks(turn, head, with_usage), headers)
        reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    reply_message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": reply_message, "logprobs": None, "finish_reason": reply.finish_reason}
    completion = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    return JSONResponse(completion, headers=headers)


async def _chunks(turn: ChatTurn, head: JsonObject, with_usage: bool) -> AsyncGenerator[bytes]:
    """Yields a chunk with the role, chunks with text, one with the finish reason, and the usage when requested.

    Ends with `[DONE]`, or with an error when the reply failed.
    """
    usage: JsonObject = {"usage": None} if with_usage else {}

    def chunk(delta: JsonObject, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async with aclosing(turn.deltas(streamed=True)) as deltas:
            async for text in deltas:
                yield chunk({"content": text})
    except ServerError as error:
        yield _data(openai_error(error.status, error.message))
        return
    assert turn.reply is not None, "deltas() sets the reply or raises"
    yield chunk({}, turn.reply.finish_reason)
    if with_usage:
        yield _data({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(turn.reply)})
    yield b"data: [DONE]\n\n"


def _data(content: JsonObject) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def _usage(reply: ChatReply) -> JsonObject:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
