"""/v1/responses: replies to the items of a conversation, of which the server may keep the earlier ones.

A response that is ready is stored, so that the next request can go on with it by its id. Event loop only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.accounts.usage import Allowance
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.responses.items import referenced, resolved, with_ids
from server.api.openai.responses.reply import Events, ResponseReply, ending
from server.api.openai.responses.schema import RESPONSE_ID, ResponseBody, ResponseCall, read_response
from server.api.openai.wire import errors
from server.api.read_json import INLINE_BYTES, read_json
from server.api.whole_reply import reply_unless_disconnected
from server.api.wire import JsonObject, json_body
from server.errors import BadRequest, NotFound, ServerError
from server.http.error_body import openai_error_of
from server.http.sse import EventStream
from server.jobs.artifacts import new_id
from server.service.chat_input import ChatDelta, ChatInput, ChatReply
from server.service.chat_turn import ChatTurn
from server.service.responses import NO_SUCH_RESPONSE, Item
from server.service.service import Service

router = APIRouter(tags=["OpenAI"])

STREAM: dict[str, Any] = {"content": {"application/json": {}, "text/event-stream": {}}}
NOT_IN_BACKGROUND = "This response was made while its client waited, so that there is nothing to cancel or to stream."


async def _response_id(response_id: Annotated[str, Path()]) -> str:
    """Rejects malformed ids without a query to the store."""
    if not re.fullmatch(RESPONSE_ID, response_id):
        raise NotFound(NO_SUCH_RESPONSE)
    return response_id


ResponseId = Annotated[str, Depends(_response_id)]


@router.post("/v1/responses", responses={200: STREAM, **errors(404, 413, 429)}, openapi_extra=json_body(ResponseBody))
async def create(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Replies to the items of a conversation as OpenAI's Responses API does; with `stream`, sends typed events."""
    async with allowance_on_error(request, service, key, ["chats"]):
        call = await read_json(await request.body(), read_response)
        items, chat_input = await _asked(service, key, call)
        with _named_as_here():
            turn = await service.chats.open(key, chat_input)
        headers = allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))
        making = Making(service, key, call, items, turn)
        if call.streamed:
            on_error = allowance_on_error(request, service, key, ["chats"])
            return EventStream(making.events(on_error), headers, making.error_event)
        with _named_as_here():
            reply = await reply_unless_disconnected(turn, request.receive, making.take)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    return JSONResponse(await making.response(reply), headers=headers)


@router.post(
    "/v1/responses/input_tokens", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(ResponseBody)
)
async def input_tokens(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Counts the tokens that a response to the same body would read. Not charged."""
    call = await read_json(await request.body(), read_response)
    _, chat_input = await _asked(service, key, call)
    with _named_as_here():
        count = await service.chats.count_tokens(key, chat_input)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


@router.get("/v1/responses/{response_id}", responses={200: {}, **errors(404)})
async def get(response_id: ResponseId, request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Returns a stored response."""
    query = _query(request, {"include", "stream", "starting_after", "include_obfuscation"})
    if query.get("stream", "false") != "false" or "starting_after" in query:
        raise BadRequest(NOT_IN_BACKGROUND, param="stream")
    return JSONResponse(await service.responses.get(key, response_id))


@router.delete("/v1/responses/{response_id}", responses={200: {}, **errors(404)})
async def delete(response_id: ResponseId, service: ServiceDep, key: KeyDep) -> Response:
    """Deletes a stored response. None can go on with it from then on, nor with those that followed it."""
    await service.responses.forget(key, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel", responses={**errors(404)})
async def cancel(response_id: ResponseId, service: ServiceDep, key: KeyDep) -> Response:
    """Refuses: a client cancels a response by closing its connection."""
    await service.responses.get(key, response_id)
    raise BadRequest(NOT_IN_BACKGROUND)


@router.get("/v1/responses/{response_id}/input_items", responses={200: {}, **errors(404)})
async def input_items(response_id: ResponseId, request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Lists the items that a stored response answered, with those of the responses before it, latest first."""
    query = _query(request, {"after", "limit", "order", "include"})
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:4]) <= 100:
        raise BadRequest("limit must be a whole number from 1 to 100.", param="limit")
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc.", param="order")
    items = await service.responses.asked(key, response_id)
    in_order = items if order == "asc" else items[::-1]
    if "after" in query:
        places = [place for place, item in enumerate(in_order) if item["id"] == query["after"]]
        if not places:
            raise BadRequest("after must be the id of one of the items.", param="after")
        in_order = in_order[places[0] + 1 :]
    page = in_order[: int(limit)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(in_order) > len(page)})


async def _asked(service: Service, key: ApiKey, call: ResponseCall) -> tuple[Sequence[Item], ChatInput]:
    """Returns the items that the request adds, and the whole chat. Raises `BadRequest`, `NotFound`."""
    if call.previous_id is not None and not re.fullmatch(RESPONSE_ID, call.previous_id):
        earlier = await service.responses.before(key, "")
    else:
        earlier = await service.responses.before(key, call.previous_id) if call.previous_id else []
    items = call.items
    if needed := set(referenced(items)):
        rows = await service.responses.stored(key, needed)

        def find(item_id: str, response_id: str, of_output: bool) -> Item | None:
            row = rows.get(response_id)
            among = () if row is None else row.response["output"] if of_output else row.items
            return next((item for item in among if item["id"] == item_id), None)

        items = resolved(items, find)
    placed = [
        *((item, "an item of an earlier response") for item in earlier),
        *((item, f"input[{index}]") for index, item in enumerate(items)),
    ]
    if sum(map(_n_characters, earlier)) + sum(map(_n_characters, items)) <= INLINE_BYTES:
        return items, call.asked(placed)
    return items, await asyncio.to_thread(call.asked, placed)


@contextmanager
def _named_as_here() -> Iterator[None]:
    """Names the field of the messages in errors as it is called here."""
    try:
        yield
    except ServerError as error:
        if error.param == "messages":
            error.param = "input"
        raise


def _n_characters(item: Item) -> int:
    """The characters of the pictures of an item, which take long to read."""
    content = item.get("content") or item.get("output")
    return sum(len(part.get("image_url", "")) for part in content) if isinstance(content, list) else 0


class Making:
    """Makes one response, whole or as events, and stores it when it is ready."""

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

    async def response(self, reply: ChatReply) -> JsonObject:
        """Returns the response to a reply of which all parts were taken."""
        for _ in self._reply.ended(reply):
            pass
        return await self._stored(reply)

    async def events(self, allowance_on_error: AbstractAsyncContextManager[None]) -> AsyncGenerator[bytes]:
        """Yields nothing before the reply has begun, so that whatever fails until then is an HTTP error."""
        encode = self._events.encode
        async with allowance_on_error, aclosing(self._turn.deltas(streamed=True)) as deltas:
            with _named_as_here():
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


def _query(request: Request, known: set[str]) -> dict[str, str]:
    """Returns the query, whose lists are written as name[]. Raises `BadRequest` for a parameter that is not known."""
    query = {name.removesuffix("[]"): value for name, value in request.query_params.multi_items()}
    if query.keys() - known:
        raise BadRequest(f"The query takes {', '.join(sorted(known))} and nothing else.")
    return query
