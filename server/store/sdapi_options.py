"""Stores the options that clients of AUTOMATIC1111's API set, per key. `choose` runs on the store's writer thread.

These clients set an option, such as the model, in one request and rely on it in later ones.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import schema

_table = schema.a1111_options


def chosen(conn: Connection, key_id: str) -> dict[str, Any]:
    """Returns the options that the key has set."""
    found = conn.execute(select(_table.c.options).where(_table.c.key_id == key_id)).scalar_one_or_none()
    return dict(found or {})


def choose(conn: Connection, key_id: str, options: dict[str, Any]) -> None:
    """Sets options of a key; those that were set before and are not among `options` stay."""
    values = {"options": chosen(conn, key_id) | options}
    if not conn.execute(update(_table).where(_table.c.key_id == key_id).values(values)).rowcount:
        conn.execute(insert(_table), {"key_id": key_id} | values)
