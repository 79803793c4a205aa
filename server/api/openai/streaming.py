"""Streams a reply in the chunks of one dialect. Event loop only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

from server.service.chat_input import ChatDelta, ChatReply
from server.service.chat_turn import ChatTurn


class ChunkWriter(Protocol):
    def delta(self, delta: ChatDelta) -> bytes:
        """Encodes the next part of a reply; nothing if the client does not get it."""

    def end(self, reply: ChatReply) -> Iterable[bytes]: ...


async def chunks_of(
    turn: ChatTurn, writer: ChunkWriter, allowance_on_error: AbstractAsyncContextManager[None]
) -> AsyncGenerator[bytes]:
    """Yields nothing before the reply has begun, so that whatever fails until then is an HTTP error."""
    async with allowance_on_error, aclosing(turn.deltas(streamed=True)) as deltas:
        async for delta in deltas:
            if chunk := writer.delta(delta):
                yield chunk
    assert turn.reply is not None, "deltas() sets the reply or raises"
    for chunk in writer.end(turn.reply):
        yield chunk
