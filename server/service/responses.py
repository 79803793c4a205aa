"""Keeps the responses that clients go on with by their ids, and finds what came before. Event loop only.

The items are JSON of the API. A chain of responses is read as a whole, so that its length and its bytes have limits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.errors import BadRequest, NotFound, Unavailable
from server.store import responses as store
from server.store.database import Database
from server.store.responses import ResponseRow
from server.units import size

Item: TypeAlias = dict[str, Any]

MAX_CHAIN = 1000  # responses that one goes on with
MAX_CHAIN_BYTES = 32 * 2**20  # of their items, as JSON: what one request may read from the store
MAX_BYTES = 16 * 2**20  # of one response and of what was added before it
NO_SUCH_RESPONSE = "There is no such response: it was never stored, was deleted, or is too old."


class Responses:
    """Methods with the id of a response treat an unknown one, another key's and a deleted one alike."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def before(self, key: ApiKey, previous_id: str) -> list[Item]:
        """Returns the items up to a response and its output, oldest first.

        Raises `BadRequest` when one of the responses is missing, or when the chain is too long.
        """

        def read(conn: Connection) -> list[Item] | None:
            return _items_of_chain(conn, key.id, previous_id)

        items = await self._database.read(read)
        if items is None:
            raise no_previous_response()
        return items

    async def stored(self, key: ApiKey, response_ids: Collection[str]) -> Mapping[str, ResponseRow]:
        """Returns those of the responses that are stored, by their ids. Raises `BadRequest` for too many bytes."""

        def read(conn: Connection) -> Sequence[ResponseRow]:
            if store.n_bytes(conn, key.id, response_ids) > MAX_CHAIN_BYTES:
                raise BadRequest(
                    f"input may refer to items of responses that have at most {size(MAX_CHAIN_BYTES)} together.",
                    param="input",
                )
            return store.get(conn, key.id, response_ids)

        return {row.id: row for row in await self._database.read(read)}

    async def get(self, key: ApiKey, response_id: str) -> Item:
        """Returns a response as its client got it. Raises `NotFound`."""
        rows = await self._database.read(lambda conn: store.get(conn, key.id, [response_id]))
        if not rows:
            raise NotFound(NO_SUCH_RESPONSE)
        return rows[0].response

    async def asked(self, key: ApiKey, response_id: str) -> list[Item]:
        """Returns all items that a response answered, also those of the responses before it, oldest first.

        Raises `NotFound`.
        """

        def read(conn: Connection) -> list[Item] | None:
            rows = store.get(conn, key.id, [response_id])
            if not rows:
                return None
            earlier = _items_of_chain(conn, key.id, rows[0].previous_id) if rows[0].previous_id else []
            return [*(earlier or []), *rows[0].items]

        items = await self._database.read(read)
        if items is None:
            raise NotFound(NO_SUCH_RESPONSE)
        return items

    async def keep(
        self, key: ApiKey, items: Sequence[Item], response: Item, previous_id: str | None, at: datetime
    ) -> str | None:
        """Stores a response that is ready. Returns None, or why it was not stored."""
        n_bytes = await asyncio.to_thread(lambda: len(json.dumps([items, response], ensure_ascii=False).encode()))
        if n_bytes > MAX_BYTES:
            return f"store: the response and its input are larger than {size(MAX_BYTES)} and were not stored."
        row = ResponseRow(
            id=response["id"],
            previous_id=previous_id,
            items=items,
            response=response,
            n_bytes=n_bytes,
            created_at=at,
        )
        try:
            await self._database.write(lambda conn: store.add(conn, key.id, row))
        except Unavailable:
            return "store: this response could not be stored, so that none can go on with it."
        return None

    async def forget(self, key: ApiKey, response_id: str) -> None:
        """Raises `NotFound`."""
        if not await self._database.write(lambda conn: store.forget(conn, key.id, response_id)):
            raise NotFound(NO_SUCH_RESPONSE)


def no_previous_response() -> BadRequest:
    return BadRequest(
        "The previous response, or one that it goes on with, is not stored: it was created with store: false, was "
        "deleted, or is too old. Send the whole conversation as input.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _items_of_chain(conn: Connection, key_id: str, response_id: str) -> list[Item] | None:
    """Returns None when a response of the chain is missing. Raises `BadRequest` when the chain is too long."""
    links = store.chain(conn, key_id, response_id, MAX_CHAIN + 1)
    if len(links) > MAX_CHAIN or sum(link.n_bytes for link in links) > MAX_CHAIN_BYTES:
        raise BadRequest(
            f"A response may go on with at most {MAX_CHAIN} earlier ones, which have at most {size(MAX_CHAIN_BYTES)} "
            "together. Send the part of the conversation that counts as input.",
            param="previous_response_id",
        )
    if not links or links[-1].previous_id is not None:
        return None
    rows = {row.id: row for row in store.get(conn, key_id, [link.id for link in links])}
    in_order = [rows[link.id] for link in reversed(links)]
    return [item for row in in_order for item in (*row.items, *row.response["output"])]
