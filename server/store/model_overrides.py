"""Pins and keep-alives that admins set while the server runs. `decide` runs on the store's writer thread."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from server.store import schema

FOR_EVER = -1.0  # stored instead of infinity, which not every database can hold; the setting is written the same way


@dataclass(frozen=True, slots=True)
class ModelOverride:
    """A value of None means that the model's entry or the setting applies."""

    pinned: bool | None = None
    keep_alive_s: float | None = None  # inf: never unload


def decide(conn: Connection, model: str, **values: bool | float | None) -> None:
    """Stores `pinned`, `keep_alive_s` or both; a value that is not passed stays as it is."""
    assert set(values) <= {"pinned", "keep_alive_s"}
    table = schema.residency
    if conn.execute(select(table.c.model).where(table.c.model == model)).first() is None:
        conn.execute(insert(table), {"model": model})
    if values.get("keep_alive_s") == math.inf:
        values["keep_alive_s"] = FOR_EVER
    conn.execute(update(table).where(table.c.model == model).values(**values))


def model_overrides(conn: Connection) -> dict[str, ModelOverride]:
    """Returns the overrides by model name."""
    return {
        row.model: ModelOverride(row.pinned, _seconds(row.keep_alive_s))
        for row in conn.execute(select(schema.residency))
    }


def _seconds(stored: float | None) -> float | None:
    return math.inf if stored is not None and stored < 0 else stored
