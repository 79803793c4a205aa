"""What the clients of AUTOMATIC1111's API chose, per key: they choose once, then ask. Writer thread for `choose`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import schema

_table = schema.a1111_options


def chosen(conn: Connection, key_id: str) -> dict[str, Any]:
    found = conn.execute(select(_table.c.options).where(_table.c.key_id == key_id)).scalar_one_or_none()
    return dict(found or {})


def choose(conn: Connection, key_id: str, options: dict[str, Any]) -> None:
    """Beside what was chosen before."""
    kept = {"options": chosen(conn, key_id) | options}
    if not conn.execute(update(_table).where(_table.c.key_id == key_id).values(kept)).rowcount:
        conn.execute(insert(_table), {"key_id": key_id} | kept)
