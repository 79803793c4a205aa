"""/v1/responses: replies to the items of a conversation, of which the server may keep the earlier ones.

A response that is ready is stored, so that the next request can go on with it by its id. Event loop only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.usage import Allowance
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.responses.conversation import named_as_here, read_conversation
from server.api.openai.responses.in_progress import ResponseInProgress
from server.api.openai.responses.schema import RESPONSE_ID, ResponseBody, read_response
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.shared.whole_reply import reply_unless_disconnected
from server.api.wire import json_body
from server.errors import BadRequest, NotFound
from server.http.sse import EventStream
from server.service.responses import NO_SUCH_RESPONSE

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
        items, chat_input = await read_conversation(service.responses, key, call)
        with named_as_here():
            turn = await service.chats.open(key, chat_input)
        headers = allowance_headers(service, Allowance("chats", turn.charge.limit, turn.charge.used))
        response = ResponseInProgress(service, key, call, items, turn)
        if call.streamed:
            on_error = allowance_on_error(request, service, key, ["chats"])
            return EventStream(response.events(on_error), headers, response.error_event)
        with named_as_here():
            reply = await reply_unless_disconnected(turn, request.receive, response.take)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    return JSONResponse(await response.whole(reply), headers=headers)


@router.post(
    "/v1/responses/input_tokens", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(ResponseBody)
)
async def input_tokens(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Counts the tokens that a response to the same body would read. Not charged."""
    call = await read_json(await request.body(), read_response)
    _, chat_input = await read_conversation(service.responses, key, call)
    with named_as_here():
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
    if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= 100:
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


def _query(request: Request, known: set[str]) -> dict[str, str]:
    """Returns the query, whose lists are written as name[]. Raises `BadRequest` for a parameter that is not known."""
    query = {name.removesuffix("[]"): value for name, value in request.query_params.multi_items()}
    if query.keys() - known:
        raise BadRequest(f"The query takes {', '.join(sorted(known))} and nothing else.")
    return query
