"""Lists in OpenAI's format: the query that asks for a page, and the reply that has one. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.wire import JsonObject
from server.errors import BadRequest

PARAMETERS = ("after", "limit", "order")


def read_page(request: Request, *, usual: int, most: int, others: Sequence[str] = ()) -> tuple[int, str | None]:
    """Returns how many entries are wanted, and the id after which they begin. Raises `BadRequest`.

    others: parameters that this list has besides.
    """
    query, known = dict(request.query_params), (*PARAMETERS, *others)
    if len(query) != len(request.query_params.multi_items()) or query.keys() - {*known}:
        raise BadRequest(f"The query takes {', '.join(known)}, each once, and nothing else.")
    limit = query.get("limit", str(usual))
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= most:
        raise BadRequest(f"limit must be a whole number from 1 to {most}.")
    if query.get("order", "desc") != "desc":
        raise BadRequest("order must be desc: newest first.")
    return int(limit), query.get("after")


def page_reply(data: Sequence[JsonObject], has_more: bool) -> JSONResponse:
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": has_more})
