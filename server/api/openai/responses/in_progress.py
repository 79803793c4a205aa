"""Makes one response, whole or as events, and stores it when it is ready. Event loop only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

from server.accounts.auth import ApiKey
from server.api.openai.responses.conversation import named_as_here
from server.api.openai.responses.items import with_ids
from server.api.openai.responses.reply import Events, ResponseReply, ending
from server.api.openai.responses.schema import ResponseCall
from server.api.wire import JsonObject
from server.errors import ServerError
from server.http.error_body import openai_error_of
from server.jobs.artifacts import new_id
from server.service.chat_input import ChatDelta, ChatReply
from server.service.chat_turn import ChatTurn
from server.service.responses import Item
from server.service.service import Service


class ResponseInProgress:
    def __init__(
        self, service: Service, key: ApiKey, call: ResponseCall, items: Sequence[Item], turn: ChatTurn
    ) -> None:
        self._service = service
        self._key = key
        self._call = call
        self._items = items
        self._turn = turn
        created_at = int(service.clock().timestamp())
        self._reply = ResponseReply(f"resp_{new_id()}", created_at, turn.model, call)
        self._events = Events()
        self._begun = False

    def take(self, delta: ChatDelta) -> None:
        """Takes the next part of a reply that is sent whole."""
        for _ in self._reply.add(delta):
            pass

    async def whole(self, reply: ChatReply) -> JsonObject:
        """Returns the response to a reply of which all parts were taken."""
        for _ in self._reply.ended(reply):
            pass
        return await self._stored(reply)

    async def events(self, allowance_on_error: AbstractAsyncContextManager[None]) -> AsyncGenerator[bytes]:
        """Yields nothing before the reply has begun, so that whatever fails until then is an HTTP error."""
        encode = self._events.encode
        async with allowance_on_error, aclosing(self._turn.deltas(streamed=True)) as deltas:
            with named_as_here():
                async for delta in deltas:
                    if not self._begun:
                        self._begun = True
                        for content in self._reply.begun():
                            yield encode(content)
                    for content in self._reply.add(delta):
                        yield encode(content)
        reply = self._turn.reply
        assert reply is not None, "deltas() sets the reply or raises"
        for content in [*([] if self._begun else self._reply.begun()), *self._reply.ended(reply)]:
            yield encode(content)
        yield encode(ending(await self._stored(reply)))

    def error_event(self, error: ServerError) -> bytes:
        """Encodes the end of a stream that fails. One without a response so far ends with an error alone."""
        if self._begun:
            return self._events.encode(self._reply.failed(error))
        inner = openai_error_of(error)["error"]
        return self._events.encode({**inner, "type": "error", "error": inner})

    async def _stored(self, reply: ChatReply) -> JsonObject:
        response = self._reply.whole(reply, int(self._service.clock().timestamp()))
        if self._call.stored:
            items = with_ids(self._items, self._reply.id)
            at = self._service.clock()
            problem = await self._service.responses.keep(self._key, items, response, self._call.previous_id, at)
            if problem is not None:
                response["warnings"] = [*response.get("warnings", ()), problem]
        return response
