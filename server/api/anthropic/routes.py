"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients call them. Event loop only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.anthropic.reply import message
from server.api.anthropic.schema import CountTokens, CreateMessage, read_call, read_count
from server.api.anthropic.stream import Events
from server.api.deps import KeyDep, ServiceDep, allowance_on_error
from server.api.read_json import read_json
from server.api.shared.chat_replies import WHOLE_OR_EVENTS, send_reply
from server.api.wire import json_body
from server.jobs.artifacts import new_id

router = APIRouter(tags=["Anthropic"])


class AnthropicErrorReply(BaseModel):
    type: str  # "error"
    error: dict[str, Any]  # type, message, details
    request_id: str | None


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": AnthropicErrorReply} for status in (400, 401, 403, 404, 413, 429, 500, 502)
}


@router.post("/v1/messages", responses={200: WHOLE_OR_EVENTS, **ERRORS}, openapi_extra=json_body(CreateMessage))
async def create(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to a list of messages as Anthropic's API does; with `stream`, sends the reply in events."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_call)
        turn = await service.chats.open(key, call.chat_input)
        head = {"id": f"msg_{new_id()}", "model": turn.model}
        events = Events(head, call, turn.prompt_tokens) if call.streamed else None
        return await send_reply(request, service, key, turn, events, lambda reply: message(head, reply, call))


@router.post("/v1/messages/count_tokens", responses={200: {}, **ERRORS}, openapi_extra=json_body(CountTokens))
async def count_tokens(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Counts the tokens of the prompt that the model would read for these messages. It is not charged."""
    chat_input = await read_json(await request.body(), read_count)
    return JSONResponse({"input_tokens": await service.chats.count_tokens(key, chat_input)})
