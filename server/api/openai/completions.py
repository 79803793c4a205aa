"""POST /v1/completions: goes on with texts as they are, whole or in chunks. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipelines.chat_interface import Prompt
from server.accounts.usage import Allowance
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.completion_reply import Chunks, completion
from server.api.openai.completion_schema import Completion, CompletionCall, read_completion
from server.api.openai.streaming import chunks_of
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.whole_reply import reply_unless_disconnected
from server.api.wire import JsonObject, json_body
from server.http.sse import EventStream
from server.jobs.artifacts import new_id
from server.service.chat_input import ChatReply

router = APIRouter(tags=["OpenAI"])

STREAM: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {}}}


@router.post(
    "/v1/completions",
    responses={200: STREAM, **errors(404, 413, 429)},
    openapi_extra=json_body(Completion),
)
async def completions(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Goes on with one or more texts without a chat template, as OpenAI's completions do; with `stream`, in chunks."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_completion)
        turn = await service.chats.open(key, call.chat_input)
        headers = allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))
        head = {"id": f"cmpl-{new_id()}", "created": int(service.clock().timestamp()), "model": turn.model}
        if call.streamed:
            chunks = Chunks(head, turn.read_prompts, call)
            return EventStream(chunks_of(turn, chunks, allowance_on_error(request, service, key, ["chats"])), headers)
        reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    return await asyncio.to_thread(_encoded, head, reply, turn.read_prompts, call, headers)


def _encoded(
    head: JsonObject, reply: ChatReply, prompts: Sequence[Prompt], call: CompletionCall, headers: Mapping[str, str]
) -> Response:
    """On a worker thread: a reply to many prompts, each with its log probabilities, has megabytes."""
    return JSONResponse(completion(head, reply, prompts, call), headers=headers)
