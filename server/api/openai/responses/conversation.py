"""Finds the conversation that a response answers, whose earlier items the server may have stored. Event loop only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from server.accounts.auth import ApiKey
from server.api.openai.responses.items import referenced, resolved
from server.api.openai.responses.schema import RESPONSE_ID, ResponseCall
from server.api.read_json import INLINE_BYTES
from server.api.shared.client_json import texts_in
from server.errors import ServerError
from server.service.chat_input import ChatInput
from server.service.responses import Item, Responses, no_previous_response
from server.store.responses import ResponseRow

TEXT_CHARACTERS = 50  # reading a short text takes as long as so many characters of a long one


async def read_conversation(responses: Responses, key: ApiKey, call: ResponseCall) -> tuple[Sequence[Item], ChatInput]:
    """Returns the items that the request adds, and the whole chat. Raises `BadRequest`, `NotFound`."""
    earlier: list[Item] = []
    if call.previous_id is not None:
        if not re.fullmatch(RESPONSE_ID, call.previous_id):
            raise no_previous_response()
        earlier = await responses.before(key, call.previous_id)
    items = call.items
    stored: Mapping[str, ResponseRow] = {}
    if needed := set(referenced(items)):
        stored = await responses.stored(key, needed)

    def read() -> tuple[Sequence[Item], ChatInput]:
        whole = resolved(items, _finder(stored)) if needed else items
        placed = [
            *((item, "an item of an earlier response") for item in earlier),
            *((item, f"input[{index}]") for index, item in enumerate(whole)),
        ]
        return whole, call.asked(placed)

    if needed or _are_many((*earlier, *items)):
        return await asyncio.to_thread(read)
    return read()


def _finder(stored: Mapping[str, ResponseRow]) -> Callable[[str, str, bool], Item | None]:
    """Finds items of these responses, as `resolved` asks for them."""
    found = {
        (response_id, of_output, item["id"]): item
        for response_id, row in stored.items()
        for of_output, items in ((True, row.response["output"]), (False, row.items))
        for item in items
    }
    return lambda item_id, response_id, of_output: found.get((response_id, of_output, item_id))


@contextmanager
def named_as_here() -> Iterator[None]:
    """Names the field of the messages in errors as it is called here."""
    try:
        yield
    except ServerError as error:
        if error.param == "messages":
            error.param = "input"
        raise


def _are_many(items: Sequence[Item]) -> bool:
    """Whether reading them takes more than a few milliseconds."""
    n_characters = 0
    for item in items:
        for text in texts_in(item):
            n_characters += len(text) + TEXT_CHARACTERS
            if n_characters > INLINE_BYTES:
                return True
    return False
