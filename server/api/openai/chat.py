"""POST /v1/chat/completions: replies to a list of messages that the client keeps itself, whole or in chunks.

Event loop only.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.usage import Allowance
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.chat_reply import Chunks, completion
from server.api.openai.chat_schema import ChatCompletion, read_chat
from server.api.openai.streaming import chunks_of
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.whole_reply import reply_unless_disconnected
from server.api.wire import json_body
from server.http.sse import EventStream
from server.jobs.artifacts import new_id

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
            chunks = Chunks(head, call)
            return EventStream(chunks_of(turn, chunks, allowance_on_error(request, service, key, ["chats"])), headers)
        reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    return JSONResponse(completion(head, reply, call), headers=headers)
