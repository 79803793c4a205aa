"""POST /api/chat: one message, one reply, whole or as it is made. A client that goes away frees its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.acceptance import Allowance
from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
from server.api.schemas import Chat, read_chat, read_object
from server.api.wire import ChatReplyBody, JsonObject, errors, json_body, timestamp
from server.conversation import ChatReply, Conversation
from server.errors import ServerError

router = APIRouter()


@router.post(
    "/api/chat",
    responses={
        200: {"model": ChatReplyBody, "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **errors(404, 413, 429),
    },
    openapi_extra=json_body(Chat),
)
async def chat(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["chats"]):
        message, stream = read_chat(read_object(await request.body()))
        conversation = await service.chat(key, message)
        headers = allowance_headers(service, Allowance("chats", conversation.limit, conversation.used))
        if stream:
            return EventStream(_events(conversation), headers)
        reply = await _unless_gone(conversation, request.receive)
    if reply is None:
        return Response(status_code=204)  # nobody is there to read it
    return JSONResponse(_reply_json(reply), headers=headers)


async def _unless_gone(conversation: Conversation, receive: Receive) -> ChatReply | None:
    """The reply; None when the client went away first, and then the engine has been told."""
    replying = asyncio.ensure_future(_whole(conversation))
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({replying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await replying if replying.done() else None
    finally:
        await _stop(replying, leaving)


async def _whole(conversation: Conversation) -> ChatReply | None:
    async with aclosing(conversation.deltas()) as deltas:
        async for _ in deltas:
            pass
    return conversation.reply


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reply_json(reply: ChatReply) -> JsonObject:
    return {
        "reply": reply.text,
        "timestamp": timestamp(reply.at),
        "conversationId": reply.conversation_id,
        "model": reply.model,
        "usage": {"promptTokens": reply.prompt_tokens, "completionTokens": reply.completion_tokens},
        "finishReason": reply.finish_reason,
    }


async def _events(conversation: Conversation) -> AsyncGenerator[bytes]:
    """`delta` for each piece of text, then `done` with the whole, or `error` in the shape of all errors."""
    try:
        async with aclosing(conversation.deltas()) as deltas:
            async for text in deltas:
                yield _event("delta", {"text": text})
    except ServerError as error:
        yield _event("error", {"error": error.message, "code": error.status})
    else:
        assert conversation.reply is not None, "deltas ends with a reply or raises"
        yield _event("done", _reply_json(conversation.reply))


def _event(name: str, content: JsonObject) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


class EventStream(Response):
    """Sends events until they end or the client goes away, whichever is first."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], headers: Mapping[str, str]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            await _stop(sending, leaving)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
