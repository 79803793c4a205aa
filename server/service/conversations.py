"""Lists, reads, renames and deletes the conversations of a key; `chat_exchange.py` adds to them. Event loop only."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.errors import NotFound
from server.store import conversations as store
from server.store import messages
from server.store.conversations import ConversationRow
from server.store.database import Database
from server.store.messages import Exchange

NO_SUCH_CONVERSATION = "There is no such conversation."


class Conversations:
    """Methods with a conversation id raise the same `NotFound` for an unknown, foreign and deleted conversation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, key: ApiKey, limit: int, cursor: str | None) -> tuple[Sequence[ConversationRow], str | None]:
        """A page of conversations, latest message first, and the cursor of the next page.

        Raises `BadRequest` for an invalid cursor.
        """
        return await self._database.read(lambda conn: store.page(conn, key.id, limit, cursor))

    async def get(self, key: ApiKey, conversation_id: str) -> tuple[ConversationRow, Sequence[Exchange]]:
        def look_up(conn: Connection) -> tuple[ConversationRow | None, Sequence[Exchange]]:
            return store.get(conn, key.id, conversation_id), messages.exchanges(conn, key.id, conversation_id)

        row, exchanges = await self._database.read(look_up)
        return _found(row), exchanges

    async def rename(self, key: ApiKey, conversation_id: str, title: str) -> ConversationRow:
        return _found(await self._database.write(lambda conn: store.rename(conn, key.id, conversation_id, title)))

    async def forget(self, key: ApiKey, conversation_id: str) -> None:
        if not await self._database.write(lambda conn: store.forget(conn, key.id, conversation_id)):
            raise NotFound(NO_SUCH_CONVERSATION)


def _found(row: ConversationRow | None) -> ConversationRow:
    if row is None:
        raise NotFound(NO_SUCH_CONVERSATION)
    return row
