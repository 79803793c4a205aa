"""What people decided about models while the server ran: pins and keep-alives, kept across restarts. Writer thread for `decide`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from server.store import schema

FOR_EVER = -1.0  # as the setting spells it: not every store keeps infinity


@dataclass(frozen=True, slots=True)
class ModelOverride:
    """None: nothing was decided, the model's entry or the setting counts."""

    pinned: bool | None = None
    keep_alive_s: float | None = None  # inf: for ever


def decide(conn: Connection, model: str, **values: bool | float | None) -> None:
    """Note `pinned`, `keep_alive_s` or both; what was decided of the other stays."""
    assert set(values) <= {"pinned", "keep_alive_s"}
    table = schema.residency
    if conn.execute(select(table.c.model).where(table.c.model == model)).first() is None:
        conn.execute(insert(table), {"model": model})
    if values.get("keep_alive_s") == math.inf:
        values["keep_alive_s"] = FOR_EVER
    conn.execute(update(table).where(table.c.model == model).values(**values))


def model_overrides(conn: Connection) -> dict[str, ModelOverride]:
    """By model."""
    return {
        row.model: ModelOverride(row.pinned, _seconds(row.keep_alive_s))
        for row in conn.execute(select(schema.residency))
    }


def _seconds(stored: float | None) -> float | None:
    return math.inf if stored is not None and stored < 0 else stored
