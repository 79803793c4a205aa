"""The turns of conversations that the server keeps, per key. Writer thread for `append`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from pipelines.interface import Message
from server.store import schema


def append(
    conn: Connection, key_id: str, conversation_id: str, messages: Sequence[Message], at: datetime | None = None
) -> None:
    """Add what was said in one exchange, in order. Another key's conversation of the same id is another conversation."""
    row = {"key_id": key_id, "conversation_id": conversation_id, "messages": [asdict(message) for message in messages]}
    conn.execute(insert(schema.turns), row | {"created_at": at or datetime.now(UTC)})


def history(conn: Connection, key_id: str, conversation_id: str) -> list[Message]:
    """All messages, oldest first; empty for an unknown or foreign conversation."""
    turns = schema.turns
    mine = (turns.c.key_id == key_id) & (turns.c.conversation_id == conversation_id)
    rows = conn.execute(select(turns.c.messages).where(mine).order_by(turns.c.seq)).scalars()
    return [Message(**message) for messages in rows for message in messages]


def forget_before(conn: Connection, at: datetime) -> None:
    """Drop the exchanges older than `at`."""
    conn.execute(delete(schema.turns).where(schema.turns.c.created_at < at))
