"""POST /v1/completions: goes on with texts as they are, whole or in chunks. Event loop only."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import KeyDep, ServiceDep, allowance_on_error
from server.api.openai.completion_reply import Chunks, completion
from server.api.openai.completion_schema import Completion, read_completion
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.shared.chat_replies import WHOLE_OR_EVENTS, send_reply
from server.api.wire import JsonObject, json_body
from server.jobs.artifacts import new_id
from server.service.chat_input import ChatReply

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/completions",
    responses={200: WHOLE_OR_EVENTS, **errors(404, 413, 429)},
    openapi_extra=json_body(Completion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Goes on with one or more texts without a chat template, as OpenAI's completions do; with `stream`, in chunks."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_completion)
        turn = await service.chats.open(key, call.chat_input)
        head = {"id": f"cmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": turn.model}
        chunks = Chunks(head, turn.read_prompts, call) if call.streamed else None

        def whole(reply: ChatReply) -> JsonObject:
            return completion(head, reply, turn.read_prompts, call)

        return await send_reply(request, service, key, turn, chunks, whole)
