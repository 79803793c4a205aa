"""Waits for the whole reply of a chat, unless its client disconnects before. Event loop only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from starlette.types import Receive

from server.http.sse import unless_disconnected
from server.service.chat_input import ChatDelta, ChatReply
from server.service.chat_turn import ChatTurn


async def reply_unless_disconnected(
    turn: ChatTurn, receive: Receive, take: Callable[[ChatDelta], None] = lambda delta: None
) -> ChatReply | None:
    """Returns the reply, or None when the client disconnected first; the reply has then been canceled in the engine.

    take: is given each delta of the reply.
    """
    return await unless_disconnected(_whole_reply(turn, take), receive)


async def _whole_reply(turn: ChatTurn, take: Callable[[ChatDelta], None]) -> ChatReply | None:
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            take(delta)
    return turn.reply
