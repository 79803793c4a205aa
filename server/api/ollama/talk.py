"""Answers Ollama's bodies of /api/chat and /api/generate. Event loop only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.spec import ModelType
from server.accounts.auth import ApiKey
from server.api.deps import allowance_on_error
from server.api.ollama.keep_alive import keep, load_or_unload
from server.api.ollama.names import shown_name
from server.api.ollama.reply import Replies
from server.api.ollama.schema import OllamaCall
from server.api.shared.chat_replies import chat_headers, chunks_of
from server.api.shared.whole_reply import reply_unless_disconnected
from server.errors import BadRequest
from server.http.json_lines import JsonLines
from server.service.service import Service


async def answer(request: Request, service: Service, key: ApiKey, call: OllamaCall) -> Response:
    """Replies as Ollama does. Within `allowance_on_error`."""
    kind: ModelType = "chat"
    try:
        spec = service.limits.model(call.model, kind)
    except BadRequest:
        if call.kind == "generate" and service.catalogue.get(call.model).is_diffusion:
            raise BadRequest("type is required: image or video.", param="type") from None  # a body of ours, then
        raise
    replies = Replies(call.kind, shown_name(spec), service.clock)
    if call.chat_input is None:
        reason = await load_or_unload(service, key, spec, call.keep_alive_s)
        return JSONResponse(replies.without_question(reason))
    turn = await service.chats.open(key, call.chat_input)
    headers = chat_headers(service, turn)
    if call.streamed:
        on_error = allowance_on_error(request, service, key, ["chats"])
        lines = _then(chunks_of(turn, replies, on_error), partial(keep, service, key, spec, call.keep_alive_s))
        return JsonLines(lines, headers, in_silence=replies.silence())
    reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    await keep(service, key, spec, call.keep_alive_s)
    return JSONResponse(replies.whole(reply), headers=headers)


async def _then(lines: AsyncGenerator[bytes], act: Callable[[], Awaitable[None]]) -> AsyncGenerator[bytes]:
    """Yields the lines, and acts when all were taken: a model must not be unloaded before it has replied."""
    async with aclosing(lines):
        async for each in lines:
            yield each
    await act()
