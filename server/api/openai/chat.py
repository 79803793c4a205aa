"""POST /v1/chat/completions: replies to a list of messages that the client keeps itself, whole or in chunks.

Event loop only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.usage import Allowance
from server.api.chat import reply_unless_disconnected
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.chat_reply import Chunks, completion
from server.api.openai.chat_schema import ChatCall, ChatCompletion, read_chat
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.wire import JsonObject, json_body
from server.http.sse import EventStream
from server.jobs.artifacts import new_id
from server.service.chat_turn import ChatTurn

router = APIRouter(tags=["OpenAI"])

STREAM: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {}}}


@router.post(
    "/v1/chat/completions",
    responses={200: STREAM, **errors(404, 413, 429)},
    openapi_extra=json_body(ChatCompletion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to a list of messages as OpenAI's chat completions do; with `stream`, sends the reply in chunks."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_chat)
        turn = await service.chats.open(key, call.chat_input)
        headers = allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))
        head = {"id": f"chatcmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": turn.model}
        if call.streamed:
            return EventStream(_chunks(turn, call, head, allowance_on_error(request, service, key, ["chats"])), headers)
        reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    return JSONResponse(completion(head, reply, call), headers=headers)


async def _chunks(
    turn: ChatTurn, call: ChatCall, head: JsonObject, allowance_on_error: AbstractAsyncContextManager[None]
) -> AsyncGenerator[bytes]:
    """Yields nothing before the reply has begun, so that whatever fails until then is an HTTP error."""
    chunks = Chunks(head, call)
    async with allowance_on_error, aclosing(turn.deltas(streamed=True)) as deltas:
        async for delta in deltas:
            if chunk := chunks.delta(delta):
                yield chunk
    assert turn.reply is not None, "deltas() sets the reply or raises"
    for chunk in chunks.end(turn.reply):
        yield chunk
