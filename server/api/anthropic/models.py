"""The list of models in Anthropic's format, which its clients get at OpenAI's address of the list. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.spec import ModelSpec
from server.api.wire import JsonObject
from server.errors import BadRequest

VERSION = "anthropic-version"  # the header that Anthropic's clients always send
PAGE_SIZE, MAX_PAGE_SIZE = 20, 1000


def model_page(specs: Sequence[ModelSpec], query: Mapping[str, str]) -> JsonObject:
    """Returns a page of the models that write text. Raises `BadRequest` for a query that cannot be read."""
    limit = query.get("limit", str(PAGE_SIZE))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_PAGE_SIZE):
        raise BadRequest(f"limit must be a whole number from 1 to {MAX_PAGE_SIZE}.", param="limit")
    left = [spec for spec in specs if spec.type == "chat"]
    names = [spec.name for spec in left]
    for cursor in ("after_id", "before_id"):
        if cursor in query and query[cursor] not in names:
            raise BadRequest(f"{cursor} must be the id of a model.", param=cursor)
    if "before_id" in query:  # the last ones before it
        left = left[: names.index(query["before_id"])]
        page = left[-int(limit) :]
    else:
        left = left[names.index(query["after_id"]) + 1 :] if "after_id" in query else left
        page = left[: int(limit)]
    return {
        "data": list(map(model_info, page)),
        "has_more": len(page) < len(left),
        "first_id": page[0].name if page else None,
        "last_id": page[-1].name if page else None,
    }


def model_info(spec: ModelSpec) -> JsonObject:
    context = spec.limits.context_tokens
    return {
        "type": "model",
        "id": spec.name,
        "display_name": spec.name,
        "created_at": "1970-01-01T00:00:00Z",  # when is not known
        "lifecycle": "active",
        **({} if context is None else {"max_input_tokens": context, "max_tokens": context}),
    }
