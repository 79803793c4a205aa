"""What people decided about models while the server ran: pins and keep-alives, kept across restarts. Writer thread for `decide`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from server.store import schema

FOR_EVER = -1.0  # as the setting spells it: not every store keeps infinity


@dataclass(frozen=True, slots=True)
class Decision:
    """None: nothing was decided, the model's entry or the setting counts."""

    pinned: bool | None = None
    keep_alive_s: float | None = None  # inf: for ever


def decide(conn: Connection, model: str, *, pinned: bool | None = None, keep_alive_s: float | None = None) -> None:
    """Note what is given; what was decided of the other stays."""
    table = schema.residency
    if conn.execute(select(table.c.model).where(table.c.model == model)).first() is None:
        conn.execute(insert(table), {"model": model})
    values: dict[str, bool | float] = {}
    if pinned is not None:
        values["pinned"] = pinned
    if keep_alive_s is not None:
        values["keep_alive_s"] = FOR_EVER if math.isinf(keep_alive_s) else keep_alive_s
    if values:
        conn.execute(update(table).where(table.c.model == model).values(**values))


def decisions(conn: Connection) -> dict[str, Decision]:
    """By model."""
    return {
        row.model: Decision(row.pinned, _seconds(row.keep_alive_s)) for row in conn.execute(select(schema.residency))
    }


def _seconds(stored: float | None) -> float | None:
    return math.inf if stored is not None and stored < 0 else stored
