"""Daily charges and refunds. A charge is one UPDATE that cannot pass the limit; a refund is one row that cannot be written twice.

Writer thread, inside the transaction that stores what is charged.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import Connection, delete, exists, insert, literal, select, update

from server.errors import TooMany
from server.store import schema

Kind: TypeAlias = Literal["images", "videos", "chats"]
KINDS: tuple[Kind, ...] = ("images", "videos", "chats")
NAMES = {"images": "images", "videos": "videos", "chats": "chat messages"}


class QuotaUsedUp(TooMany):
    def __init__(self, kind: Kind, limit: int, used: int, units: int, *, retry_after_s: int | None = None) -> None:
        text = f"This key's plan allows {limit} {NAMES[kind]} a day (UTC): {used} used, {units} more asked for."
        super().__init__(text, retry_after_s=retry_after_s)
        self.kind = kind
        self.limit = limit
        self.used = used


def charge(
    conn: Connection,
    key_id: str,
    day: str,
    kind: Kind,
    units: int,
    limit: int | None,
    *,
    retry_after_s: int | None = None,
) -> int:
    """Book `units` on `day` (UTC, "2026-11-24") and return what is used then. Raises `QuotaUsedUp` and books nothing past `limit`.

    `limit` None is no limit. `retry_after_s`, seconds to the end of the day, goes into the error.
    """
    usage = schema.usage
    mine = (usage.c.key_id == key_id) & (usage.c.day == day) & (usage.c.kind == kind)
    first = select(literal(key_id), literal(day), literal(kind), literal(0)).where(~exists().where(mine))
    conn.execute(insert(usage).from_select(["key_id", "day", "kind", "used"], first))
    booking = update(usage).where(mine).values(used=usage.c.used + units)
    if limit is not None:
        booking = booking.where(usage.c.used + units <= limit)
    used = conn.execute(booking.returning(usage.c.used)).scalar_one_or_none()
    if used is None:
        assert limit is not None, "only a limit keeps the row from matching"
        already = conn.execute(select(usage.c.used).where(mine)).scalar_one()
        raise QuotaUsedUp(kind, limit, already, units, retry_after_s=retry_after_s)
    return int(used)


def refund(conn: Connection, job_id: str) -> bool:
    """Give a job's charge back to the day that paid it. False when it was given back before, or nothing was charged."""
    jobs = schema.jobs
    columns = (jobs.c.key_id, jobs.c.charged_day, jobs.c.charged_kind, jobs.c.charged_units)
    row = conn.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()
    if row is None or row.charged_day is None or row.charged_units == 0:
        return False
    return refund_units(conn, job_id, row.key_id, row.charged_day, row.charged_kind, row.charged_units)


def refund_units(conn: Connection, refund_id: str, key_id: str, day: str, kind: Kind, units: int) -> bool:
    """As `refund`, for what has no job row (a chat): `refund_id` names the thing charged, once."""
    usage, refunds = schema.usage, schema.refunds
    values = (literal(refund_id), literal(key_id), literal(day), literal(kind), literal(units))
    once = select(*values).where(~exists().where(refunds.c.id == refund_id))
    booking = insert(refunds).from_select(["id", "key_id", "day", "kind", "units"], once).returning(refunds.c.id)
    if conn.execute(booking).one_or_none() is None:  # not `rowcount`: Postgres' driver tells none of an INSERT … SELECT
        return False
    mine = (usage.c.key_id == key_id) & (usage.c.day == day) & (usage.c.kind == kind)
    conn.execute(update(usage).where(mine).values(used=usage.c.used - units))
    return True


def used_today(conn: Connection, key_id: str, day: str) -> dict[Kind, int]:
    """Of every kind, 0 where nothing was charged."""
    usage = schema.usage
    statement = select(usage.c.kind, usage.c.used).where(usage.c.key_id == key_id, usage.c.day == day)
    used = {row.kind: int(row.used) for row in conn.execute(statement)}
    return {kind: used.get(kind, 0) for kind in KINDS}


def used_by_all(conn: Connection, day: str) -> dict[str, dict[Kind, int]]:
    """Of every key that was charged on `day`, by its id; every kind, 0 where nothing was."""
    usage = schema.usage
    used: dict[str, dict[Kind, int]] = {}
    for row in conn.execute(select(usage.c.key_id, usage.c.kind, usage.c.used).where(usage.c.day == day)):
        used.setdefault(row.key_id, dict.fromkeys(KINDS, 0))[row.kind] = int(row.used)
    return used


def forget_days_before(conn: Connection, day: str) -> None:
    """Drop the books of days nobody can be charged for or refunded to any more."""
    for table in (schema.usage, schema.refunds):
        conn.execute(delete(table).where(table.c.day < day))
