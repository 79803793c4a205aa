"""Daily charges and refunds. Writer thread, inside the transaction that stores the job or the chat.

A charge is one UPDATE that cannot exceed the limit. A refund is one row whose primary key prevents a second one.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import Connection, delete, exists, insert, literal, select, update

from server.errors import TooMany, Unauthorized
from server.store import schema
from server.store.keys import revoked_among

Kind: TypeAlias = Literal["images", "videos", "chats"]
KINDS: tuple[Kind, ...] = ("images", "videos", "chats")
NAMES = {"images": "images", "videos": "videos", "chats": "chat messages"}


class QuotaUsedUp(TooMany):
    def __init__(self, kind: Kind, limit: int, used: int, units: int, *, retry_after_s: int | None = None) -> None:
        text = f"This key's plan allows {limit} {NAMES[kind]} a day (UTC): {used} used, {units} more requested."
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
    """Charges `units` to `day` (UTC, "2026-11-24") and returns the day's new total.

    Charges nothing and raises `QuotaUsedUp` when the total would exceed `limit` (None is unlimited), or `Unauthorized`
    when the key was revoked since the request came. `retry_after_s`, the seconds until the day ends, becomes part of
    the error.
    """
    if revoked_among(conn, [key_id]):
        raise Unauthorized
    usage = schema.usage
    mine = (usage.c.key_id == key_id) & (usage.c.day == day) & (usage.c.kind == kind)
    first = select(literal(key_id), literal(day), literal(kind), literal(0)).where(~exists().where(mine))
    conn.execute(insert(usage).from_select(["key_id", "day", "kind", "used"], first))
    booking = update(usage).where(mine).values(used=usage.c.used + units)
    if limit is not None:
        booking = booking.where(usage.c.used + units <= limit)
    used = conn.execute(booking.returning(usage.c.used)).scalar_one_or_none()
    if used is None:
        assert limit is not None, "without a limit the row always matches"
        already = conn.execute(select(usage.c.used).where(mine)).scalar_one()
        raise QuotaUsedUp(kind, limit, already, units, retry_after_s=retry_after_s)
    return int(used)


def refund(conn: Connection, job_id: str) -> bool:
    """Refunds a job on the day it was charged to. Returns False when it was refunded before or nothing was charged."""
    jobs = schema.jobs
    columns = (jobs.c.key_id, jobs.c.charged_day, jobs.c.charged_kind, jobs.c.charged_units)
    row = conn.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()
    if row is None or row.charged_day is None or row.charged_units == 0:
        return False
    return refund_units(conn, job_id, row.key_id, row.charged_day, row.charged_kind, row.charged_units)


def refund_units(conn: Connection, refund_id: str, key_id: str, day: str, kind: Kind, units: int) -> bool:
    """As `refund`, for a chat, which has no job row. `refund_id`, the id of the chat, can be refunded once."""
    usage, refunds = schema.usage, schema.refunds
    values = (literal(refund_id), literal(key_id), literal(day), literal(kind), literal(units))
    once = select(*values).where(~exists().where(refunds.c.id == refund_id))
    booking = insert(refunds).from_select(["id", "key_id", "day", "kind", "units"], once).returning(refunds.c.id)
    if conn.execute(booking).one_or_none() is None:  # Postgres' driver returns no `rowcount` for INSERT … SELECT
        return False
    mine = (usage.c.key_id == key_id) & (usage.c.day == day) & (usage.c.kind == kind)
    conn.execute(update(usage).where(mine).values(used=usage.c.used - units))
    return True


def used_today(conn: Connection, key_id: str, day: str) -> dict[Kind, int]:
    """Returns the key's charges of that day by kind, 0 where nothing was charged."""
    usage = schema.usage
    statement = select(usage.c.kind, usage.c.used).where(usage.c.key_id == key_id, usage.c.day == day)
    used = {row.kind: int(row.used) for row in conn.execute(statement)}
    return {kind: used.get(kind, 0) for kind in KINDS}


def used_by_all(conn: Connection, day: str) -> dict[str, dict[Kind, int]]:
    """Returns the charges by kind for every key that was charged on `day`, 0 where nothing was charged."""
    usage = schema.usage
    used: dict[str, dict[Kind, int]] = {}
    for row in conn.execute(select(usage.c.key_id, usage.c.kind, usage.c.used).where(usage.c.day == day)):
        used.setdefault(row.key_id, dict.fromkeys(KINDS, 0))[row.kind] = int(row.used)
    return used


def forget_days_before(conn: Connection, day: str) -> None:
    """Deletes charges and refunds of days before `day`, which can no longer change."""
    for table in (schema.usage, schema.refunds):
        conn.execute(delete(table).where(table.c.day < day))
