"""Responses that clients may go on with by their ids: the items that each was asked, and what it answered.

The items and the response are JSON of the API, which nothing here looks into. `add`, `forget` and `forget_before` run
on the store's writer thread, everything else may run on a reader thread.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal, select

from server.store import schema


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    id: str
    previous_id: str | None  # the response that this one goes on with
    items: Sequence[dict[str, Any]]  # what was added to the earlier ones before this response
    response: dict[str, Any]  # as the client got it
    n_bytes: int  # of items and response as JSON
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """One response of a chain, without its contents."""

    id: str
    previous_id: str | None
    n_bytes: int


_table = schema.responses


def add(conn: Connection, key_id: str, row: ResponseRow) -> None:
    values = {name: getattr(row, name) for name in ResponseRow.__slots__}
    conn.execute(insert(_table), {"key_id": key_id} | values)


def get(conn: Connection, key_id: str, response_ids: Collection[str]) -> list[ResponseRow]:
    """Returns those of the responses that the key has, in any order."""
    columns = [_table.c[name] for name in ResponseRow.__slots__]
    found = conn.execute(select(*columns).where(_mine(key_id), _table.c.id.in_(response_ids))).mappings()
    return [ResponseRow(**row) for row in found]


def n_bytes(conn: Connection, key_id: str, response_ids: Collection[str]) -> int:
    """Returns the bytes of those of the responses that the key has."""
    total = select(func.sum(_table.c.n_bytes)).where(_mine(key_id), _table.c.id.in_(response_ids))
    return int(conn.execute(total).scalar() or 0)


def chain(conn: Connection, key_id: str, response_id: str, max_length: int) -> list[Link]:
    """Returns a response and those before it, latest first and at most `max_length` of them.

    The chain ends early where a response is unknown or another key's: the `previous_id` of the last link then remains.
    """
    columns = (_table.c.id, _table.c.previous_id, _table.c.n_bytes)
    links = select(*columns, literal(1).label("level")).where(_mine(key_id), _table.c.id == response_id)
    chained = links.cte("chained", recursive=True)
    earlier = (
        select(*columns, chained.c.level + 1)
        .join(chained, _table.c.id == chained.c.previous_id)
        .where(_mine(key_id), chained.c.level < max_length)
    )
    chained = chained.union_all(earlier)
    rows = conn.execute(select(chained.c.id, chained.c.previous_id, chained.c.n_bytes).order_by(chained.c.level))
    return [Link(*row) for row in rows]


def forget(conn: Connection, key_id: str, response_id: str) -> bool:
    """Returns False for an unknown response and for one of another key."""
    return bool(conn.execute(delete(_table).where(_mine(key_id), _table.c.id == response_id)).rowcount)


def forget_before(conn: Connection, at: datetime) -> None:
    """Deletes the responses older than `at`."""
    conn.execute(delete(_table).where(_table.c.created_at < at))


def _mine(key_id: str) -> ColumnElement[bool]:
    return _table.c.key_id == key_id
