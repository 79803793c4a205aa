"""The conversations of a key: title, model, system prompt and times. Their messages are in `messages.py`.

`get` and `page` may run on a reader thread; everything else runs on the store's writer thread.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, select, update

from server.store import schema
from server.store.cursors import read_cursor, write_cursor

TITLE_CHARS = 80  # of the first message, so that a title fits on one line


@dataclass(frozen=True, slots=True)
class ConversationRow:
    id: str
    title: str
    model: str | None  # the model of the latest reply; None in rows written before this column existed
    system: str | None  # the system prompt of the latest reply
    created_at: datetime
    updated_at: datetime


_table = schema.conversations
_columns = [_table.c[field.name] for field in fields(ConversationRow)]


def note(
    conn: Connection,
    key_id: str,
    conversation_id: str,
    user_message: str,
    at: datetime,
    seq: int,
    *,
    model: str | None,
    system: str | None,
) -> None:
    """Records that exchange number `seq` was added. A new conversation gets the beginning of its message as title."""
    latest = {"updated_at": at, "last_seq": seq, "model": model, "system": system}
    updated = conn.execute(update(_table).where(_mine(key_id, conversation_id)).values(latest))
    if not updated.rowcount:
        title = " ".join(user_message.split())[:TITLE_CHARS] or "Untitled"
        new = {"key_id": key_id, "id": conversation_id, "title": title, "created_at": at}
        conn.execute(insert(_table), new | latest)


def get(conn: Connection, key_id: str, conversation_id: str) -> ConversationRow | None:
    """Returns None for an unknown conversation and for one of another key."""
    found = conn.execute(select(*_columns).where(_mine(key_id, conversation_id))).mappings().one_or_none()
    return None if found is None else _row(found)


def page(conn: Connection, key_id: str, limit: int, cursor: str | None) -> tuple[list[ConversationRow], str | None]:
    """Returns a page of conversations, the most recent first, and the cursor of the next page, None on the last one."""
    statement = select(*_columns, _table.c.last_seq).where(_table.c.key_id == key_id)
    if cursor is not None:
        statement = statement.where(_table.c.last_seq < read_cursor(cursor))
    rows = conn.execute(statement.order_by(_table.c.last_seq.desc()).limit(limit + 1)).mappings().all()
    after = write_cursor(rows[limit - 1]["last_seq"]) if len(rows) > limit else None
    return [_row(row) for row in rows[:limit]], after


def rename(conn: Connection, key_id: str, conversation_id: str, title: str) -> ConversationRow | None:
    """Returns the renamed conversation, or None for an unknown one and for one of another key."""
    conn.execute(update(_table).where(_mine(key_id, conversation_id)).values(title=title))
    return get(conn, key_id, conversation_id)


def forget(conn: Connection, key_id: str, conversation_id: str) -> bool:
    """Deletes a conversation with its messages. Returns False for an unknown one and for one of another key."""
    turns = schema.turns
    conn.execute(delete(turns).where(turns.c.key_id == key_id, turns.c.conversation_id == conversation_id))
    return bool(conn.execute(delete(_table).where(_mine(key_id, conversation_id))).rowcount)


def _mine(key_id: str, conversation_id: str) -> ColumnElement[bool]:
    return (_table.c.key_id == key_id) & (_table.c.id == conversation_id)


def _row(found: RowMapping) -> ConversationRow:
    return ConversationRow(**{field.name: found[field.name] for field in fields(ConversationRow)})
