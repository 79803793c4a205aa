"""POST /api/chat: replies to one message, in one piece or as a stream. Event loop only."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import KeyDep, ServiceDep, allowance_on_error
from server.api.ollama.reply import OllamaReply
from server.api.ollama.schema import OllamaCall, OllamaChat, is_chat
from server.api.ollama.schema import read_chat as read_ollama_chat
from server.api.ollama.talk import answer
from server.api.read_json import read_json
from server.api.schemas import Chat, read_chat
from server.api.shared.chat_replies import send_reply
from server.api.wire import ChatReplyBody, JsonObject, errors, json_body, timestamp
from server.http.body import check_type
from server.http.sse import event
from server.service.chat_input import ChatDelta, ChatInput, ChatReply

router = APIRouter()


@router.post(
    "/api/chat",
    responses={
        200: {"model": ChatReplyBody | OllamaReply, "content": {"text/event-stream": {}, "application/x-ndjson": {}}},
        **errors(404, 413, 429),
    },
    openapi_extra=json_body(Chat, OllamaChat),
)
async def chat(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to one message. With `stream`, sends server-sent events: a `delta` for each piece of text, a `thinking`
    for each piece of what the model thinks before, then `done` with the whole reply, or `error`. A body that has
    `messages` instead of a `message` is answered as Ollama answers it.
    """
    async with allowance_on_error(request, service, key, ["chats"]):
        read = await read_json(await request.body(), _read)
        if isinstance(read, OllamaCall):
            return await answer(request, service, key, read)
        check_type(request.headers)
        message, stream = read
        turn = await service.chats.open(key, message)
        return await send_reply(request, service, key, turn, _Events() if stream else None, _reply_json)


def _read(raw: JsonObject) -> OllamaCall | tuple[ChatInput, bool]:
    return read_ollama_chat(raw) if is_chat(raw) else read_chat(raw)


def _reply_json(reply: ChatReply) -> JsonObject:
    (choice,) = reply.choices
    return {
        "reply": choice.text,
        **({"thinking": choice.thinking} if choice.thinking else {}),
        "timestamp": timestamp(reply.at),
        "conversationId": reply.conversation_id,
        "model": reply.model,
        "usage": {
            "promptTokens": reply.prompt_tokens,
            "completionTokens": reply.completion_tokens,
            "thinkingTokens": reply.thinking_tokens,
        },
        "finishReason": choice.finish_reason,
        "warnings": list(reply.warnings),
    }


class _Events:
    """Encodes `thinking` and `delta` for each piece of text, then `done` with the whole reply."""

    def delta(self, delta: ChatDelta) -> bytes:
        return event("delta" if delta.section == "content" else "thinking", {"text": delta.text})

    def end(self, reply: ChatReply) -> Iterable[bytes]:
        yield event("done", _reply_json(reply))
