"""The turns of conversations that the server keeps, per key. Writer thread for `append`.

Another key's conversation of the same id is another conversation. Their list is in `conversations.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from pipelines.interface import Message
from server.store import conversations, schema


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was said in one go, and when it had been."""

    messages: tuple[Message, ...]
    at: datetime


def append(
    conn: Connection,
    key_id: str,
    conversation_id: str,
    messages: Sequence[Message],
    at: datetime | None = None,
    *,
    model: str | None = None,
    system: str | None = None,
    goes_on: bool = False,
) -> bool:
    """Add what was said in one exchange, in order.

    goes_on: to a conversation that was there when the reply began. Returns False when it was deleted meanwhile: it stays so.
    """
    at = at or datetime.now(UTC)
    if goes_on and conversations.get(conn, key_id, conversation_id) is None:
        return False
    row = {"key_id": key_id, "conversation_id": conversation_id, "messages": [asdict(message) for message in messages]}
    adding = insert(schema.turns).returning(schema.turns.c.seq)
    seq = conn.execute(adding, row | {"created_at": at}).scalar_one()
    said = next((message.content for message in messages if message.role == "user"), "")
    conversations.note(conn, key_id, conversation_id, said, at, seq, model=model, system=system)
    return True


def exchanges(conn: Connection, key_id: str, conversation_id: str) -> list[Exchange]:
    """Oldest first; empty for an unknown or foreign conversation."""
    turns = schema.turns
    mine = (turns.c.key_id == key_id) & (turns.c.conversation_id == conversation_id)
    rows = conn.execute(select(turns.c.messages, turns.c.created_at).where(mine).order_by(turns.c.seq))
    return [Exchange(tuple(Message(**message) for message in messages), at) for messages, at in rows]


def history(conn: Connection, key_id: str, conversation_id: str) -> list[Message]:
    """All messages, oldest first."""
    return [message for exchange in exchanges(conn, key_id, conversation_id) for message in exchange.messages]


def forget_before(conn: Connection, at: datetime) -> None:
    """Drop the exchanges older than `at`, and the conversations of which nothing is left."""
    conn.execute(delete(schema.turns).where(schema.turns.c.created_at < at))
    conn.execute(delete(schema.conversations).where(schema.conversations.c.updated_at < at))
