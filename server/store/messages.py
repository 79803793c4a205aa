"""The messages of conversations, in exchanges of a user's message and its reply. `append` runs on the writer thread.

Two keys can use the same conversation id for two conversations. Titles and models are in `conversations.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from pipelines.chat_interface import Message, ToolCall
from server.store import conversations, schema


@dataclass(frozen=True, slots=True)
class Exchange:
    """The messages that were added together."""

    messages: tuple[Message, ...]
    at: datetime  # when they were added


def append(
    conn: Connection,
    key_id: str,
    conversation_id: str,
    messages: Sequence[Message],
    at: datetime | None = None,
    *,
    model: str | None = None,
    system: str | None = None,
    must_exist: bool = False,
) -> bool:
    """Adds the messages of one exchange, in order.

    `must_exist`: the conversation existed when the reply began. If it was deleted since then, it stays deleted, and
    the result is False.
    """
    at = at or datetime.now(UTC)
    if must_exist and conversations.get(conn, key_id, conversation_id) is None:
        return False
    row = {"key_id": key_id, "conversation_id": conversation_id, "messages": [_json(message) for message in messages]}
    adding = insert(schema.turns).returning(schema.turns.c.seq)
    seq = conn.execute(adding, row | {"created_at": at}).scalar_one()
    user_message = next((message.content for message in messages if message.role == "user"), "")
    conversations.note(conn, key_id, conversation_id, user_message, at, seq, model=model, system=system)
    return True


def exchanges(conn: Connection, key_id: str, conversation_id: str) -> list[Exchange]:
    """Returns the exchanges, oldest first; none for an unknown conversation and for one of another key."""
    turns = schema.turns
    mine = (turns.c.key_id == key_id) & (turns.c.conversation_id == conversation_id)
    rows = conn.execute(select(turns.c.messages, turns.c.created_at).where(mine).order_by(turns.c.seq))
    return [Exchange(tuple(_message(stored) for stored in messages), at) for messages, at in rows]


def history(conn: Connection, key_id: str, conversation_id: str) -> list[Message]:
    """Returns all messages, oldest first."""
    return [message for exchange in exchanges(conn, key_id, conversation_id) for message in exchange.messages]


def forget_before(conn: Connection, at: datetime) -> None:
    """Deletes exchanges older than `at`, and conversations whose latest exchange is older than `at`."""
    conn.execute(delete(schema.turns).where(schema.turns.c.created_at < at))
    conn.execute(delete(schema.conversations).where(schema.conversations.c.updated_at < at))


def _json(message: Message) -> dict[str, Any]:
    """Returns the message's role and content, and those of its other fields that say something."""
    stored = {name: value for name, value in asdict(message).items() if value}
    return {"role": message.role, "content": message.content, **stored}


def _message(stored: dict[str, Any]) -> Message:
    """Reads what `_json` returned, in this version or an earlier one."""
    calls = tuple(ToolCall(**call) for call in stored.get("tool_calls", ()))
    return Message(**{**stored, "tool_calls": calls})
