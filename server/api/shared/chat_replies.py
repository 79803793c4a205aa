"""Sends the reply of a chat in the words of one dialect: whole, or in chunks while it comes. Event loop only.

When the client disconnects, the engine cancels the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.accounts.usage import Allowance
from server.api.deps import allowance_headers, allowance_on_error
from server.api.shared.large_json import large_json
from server.api.shared.whole_reply import reply_unless_disconnected
from server.api.wire import JsonObject
from server.http.sse import EventStream
from server.service.chat_input import ChatDelta, ChatReply
from server.service.chat_turn import ChatTurn
from server.service.service import Service

# For the OpenAPI document: what a route replies that sends its reply whole or as events.
WHOLE_OR_EVENTS: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {}}}
INLINE_SCORED = 1000  # tokens with log probabilities: fewer are written in a few milliseconds


class ChunkWriter(Protocol):
    def delta(self, delta: ChatDelta) -> bytes:
        """Encodes the next part of a reply; nothing if the client does not get it."""

    def end(self, reply: ChatReply) -> Iterable[bytes]: ...


async def send_reply(
    request: Request,
    service: Service,
    key: ApiKey,
    turn: ChatTurn,
    writer: ChunkWriter | None,
    whole: Callable[[ChatReply], JsonObject],
) -> Response:
    """writer: of the server-sent events; None: the reply is sent as what `whole` makes of it."""
    headers = chat_headers(service, turn)
    if writer is not None:
        return EventStream(chunks_of(turn, writer, allowance_on_error(request, service, key, ["chats"])), headers)
    reply = await reply_unless_disconnected(turn, request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    n_scored = sum(len(choice.logprobs) + len(choice.prompt_logprobs) for choice in reply.choices)
    if n_scored > INLINE_SCORED:
        return await asyncio.to_thread(lambda: large_json(whole(reply), headers))
    return JSONResponse(whole(reply), headers=headers)


def chat_headers(service: Service, turn: ChatTurn) -> dict[str, str]:
    """Returns the rate limit headers of a reply."""
    return allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))


async def chunks_of(
    turn: ChatTurn, writer: ChunkWriter, allowance_on_error: AbstractAsyncContextManager[None]
) -> AsyncGenerator[bytes]:
    """Yields nothing before the reply has begun, so that whatever fails until then is an HTTP error."""
    async with allowance_on_error, aclosing(turn.deltas(streamed=True)) as deltas:
        async for delta in deltas:
            is_large = len(delta.logprobs) > INLINE_SCORED  # an echoed prompt
            if chunk := await asyncio.to_thread(writer.delta, delta) if is_large else writer.delta(delta):
                yield chunk
    assert turn.reply is not None, "deltas() sets the reply or raises"
    for chunk in writer.end(turn.reply):
        yield chunk
