"""/api/conversations: lists, reads, renames and deletes conversations stored by POST /api/chat. Event loop only."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipelines.chat_interface import Message
from server.api.deps import KeyDep, ServiceDep
from server.api.schemas import CONVERSATION_ID, read_body, read_object
from server.api.strict_fields import PRINTABLE, Strict
from server.api.wire import JsonObject, Reply, errors, json_body, timestamp
from server.errors import BadRequest, NotFound
from server.service.conversations import NO_SUCH_CONVERSATION
from server.store.conversations import ConversationRow

router = APIRouter()

FILTERS = ("limit", "cursor")


class RenameConversation(Strict):
    title: str = Field(
        min_length=1,
        max_length=100,
        pattern=PRINTABLE,
        description="1 to 100 printable characters, not only white space",
    )


class ConversationReply(Reply):
    conversationId: str
    title: str
    model: str | None
    system: str | None
    createdAt: str
    updatedAt: str


class MessageReply(Reply):
    role: Literal["system", "user", "assistant"]
    content: str
    thinking: str = ""  # before the content of a reply; absent when there is none
    timestamp: str


class WholeConversationReply(ConversationReply):
    messages: list[MessageReply]


class ConversationsReply(Reply):
    conversations: list[ConversationReply]
    nextCursor: str | None


class DeletedConversationReply(Reply):
    conversationId: str
    deleted: bool


async def _conversation_id(conversation_id: Annotated[str, Path()]) -> str:
    """Rejects malformed ids without a query to the store."""
    if not re.fullmatch(CONVERSATION_ID, conversation_id):
        raise NotFound(NO_SUCH_CONVERSATION)
    return conversation_id


ConversationId = Annotated[str, Depends(_conversation_id)]


@router.get("/api/conversations", responses={200: {"model": ConversationsReply}, **errors()})
async def list_conversations(
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """Lists the key's conversations, the most recent reply first. Pass `nextCursor` as `cursor` for the next page."""
    if any(name not in FILTERS for name in request.query_params):
        raise BadRequest(f"The query takes {' and '.join(FILTERS)}, each once, and nothing else.")
    rows, after = await service.conversations.list(key, limit, cursor)
    return JSONResponse({"conversations": [_json(row) for row in rows], "nextCursor": after})


@router.get("/api/conversations/{conversation_id}", responses={200: {"model": WholeConversationReply}, **errors(404)})
async def get_conversation(conversation_id: ConversationId, service: ServiceDep, key: KeyDep) -> Response:
    """Returns the conversation with all messages that are still stored, oldest first. `model` and `system` are those of
    its latest reply. The message of a model that thought before it replied has its `thinking`.
    """
    row, exchanges = await service.conversations.get(key, conversation_id)
    messages = [_message_json(message, exchange.at) for exchange in exchanges for message in exchange.messages]
    return JSONResponse({**_json(row), "messages": messages})


@router.patch(
    "/api/conversations/{conversation_id}",
    responses={200: {"model": ConversationReply}, **errors(404, 413)},
    openapi_extra=json_body(RenameConversation),
)
async def rename_conversation(
    request: Request, conversation_id: ConversationId, service: ServiceDep, key: KeyDep
) -> Response:
    """Renames a conversation. Until then, its title is the beginning of its first message."""
    title = read_body(RenameConversation, read_object(await request.body())).title.strip()
    return JSONResponse(_json(await service.conversations.rename(key, conversation_id, title)))


@router.delete(
    "/api/conversations/{conversation_id}", responses={200: {"model": DeletedConversationReply}, **errors(404)}
)
async def forget_conversation(conversation_id: ConversationId, service: ServiceDep, key: KeyDep) -> Response:
    """Deletes a conversation and all its messages at once. A reply that is being generated for it is not stored."""
    await service.conversations.forget(key, conversation_id)
    return JSONResponse({"conversationId": conversation_id, "deleted": True})


def _message_json(message: Message, at: datetime) -> JsonObject:
    thinking = {"thinking": message.thinking} if message.thinking else {}
    return {"role": message.role, "content": message.content, **thinking, "timestamp": timestamp(at)}


def _json(row: ConversationRow) -> JsonObject:
    return {
        "conversationId": row.id,
        "title": row.title,
        "model": row.model,
        "system": row.system,
        "createdAt": timestamp(row.created_at),
        "updatedAt": timestamp(row.updated_at),
    }
