"""Stores the new messages of one chat turn, with the reply to them, in their conversation. Event loop only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipelines.chat_interface import Message
from server.errors import Unavailable
from server.jobs.results import Results
from server.store import messages, open_chats
from server.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatExchange:
    key_id: str
    conversation_id: str
    existed: bool  # the conversation was in the store when the turn began; if it is deleted now, it stays deleted
    stored: bool  # False: the client keeps the conversation, and nothing is stored
    new_messages: Sequence[Message]
    model: str
    system: str | None  # the system prompt that the client gave

    async def store(self, database: Database, reply: Message, at: datetime, charge_id: str) -> bool:
        """Keeps the charge of the reply, too. Returns False when the store is unavailable."""

        def append_and_keep(conn: Connection) -> None:
            open_chats.ended(conn, charge_id)
            self._append(conn, reply, at)

        if self.stored:
            try:
                await database.write(append_and_keep)
            except Unavailable:
                return False
        return True

    def store_partial(self, results: Results, reply: Message, at: datetime) -> None:
        """Stores the part of a reply that a disconnected client has received, in a task."""
        if self.stored:
            results.spawn(results.persist(lambda conn: self._append(conn, reply, at)))

    def _append(self, conn: Connection, reply: Message, at: datetime) -> None:
        messages.append(
            conn,
            self.key_id,
            self.conversation_id,
            [*self.new_messages, reply],
            at,
            model=self.model,
            system=self.system,
            must_exist=self.existed,
        )
