"""The charges of chats whose replies are being made, so that those that the end of the process cuts off are refunded.

Writer thread. A row is written with the charge, and deleted with the refund or once the reply is made.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from server.store import schema, usage


def opened(conn: Connection, chat_id: str, key_id: str, day: str, units: int) -> None:
    conn.execute(insert(schema.open_chats).values(id=chat_id, key_id=key_id, day=day, units=units))


def ended(conn: Connection, chat_id: str) -> None:
    conn.execute(delete(schema.open_chats).where(schema.open_chats.c.id == chat_id))


def refund_all(conn: Connection) -> None:
    """Refunds the chats of the last process. Call it before this one charges any."""
    chats = schema.open_chats
    for chat_id, key_id, day, units in conn.execute(select(chats.c.id, chats.c.key_id, chats.c.day, chats.c.units)):
        usage.refund_units(conn, chat_id, key_id, day, "chats", units)
    conn.execute(delete(chats))
