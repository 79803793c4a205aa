"""POST /v1/chat/completions: replies to a list of messages that the client keeps itself, whole or in chunks.

Event loop only.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import KeyDep, ServiceDep, allowance_on_error
from server.api.openai.chat_reply import Chunks, completion
from server.api.openai.chat_schema import ChatCompletion, read_chat
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.shared.chat_replies import WHOLE_OR_EVENTS, send_reply
from server.api.wire import json_body
from server.jobs.artifacts import new_id

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/chat/completions",
    responses={200: WHOLE_OR_EVENTS, **errors(404, 413, 429)},
    openapi_extra=json_body(ChatCompletion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to a list of messages as OpenAI's chat completions do; with `stream`, sends the reply in chunks."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_chat)
        turn = await service.chats.open(key, call.chat_input)
        head = {"id": f"chatcmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": turn.model}
        chunks = Chunks(head, call) if call.streamed else None
        return await send_reply(request, service, key, turn, chunks, lambda reply: completion(head, reply, call))
