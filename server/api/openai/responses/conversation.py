"""Finds the conversation that a response answers, whose earlier items the server may have stored. Event loop only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from server.accounts.auth import ApiKey
from server.api.openai.responses.items import referenced, resolved
from server.api.openai.responses.schema import RESPONSE_ID, ResponseCall
from server.api.read_json import INLINE_BYTES
from server.errors import ServerError
from server.service.chat_input import ChatInput
from server.service.responses import Item, Responses, no_previous_response


async def read_conversation(responses: Responses, key: ApiKey, call: ResponseCall) -> tuple[Sequence[Item], ChatInput]:
    """Returns the items that the request adds, and the whole chat. Raises `BadRequest`, `NotFound`."""
    earlier: list[Item] = []
    if call.previous_id is not None:
        if not re.fullmatch(RESPONSE_ID, call.previous_id):
            raise no_previous_response()
        earlier = await responses.before(key, call.previous_id)
    items = call.items
    if needed := set(referenced(items)):
        rows = await responses.stored(key, needed)

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
def named_as_here() -> Iterator[None]:
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
