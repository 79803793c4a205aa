"""Maps Idempotency-Keys to jobs, so that a request that is sent twice is accepted and charged once. Writer thread."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from server.errors import Conflict
from server.store import schema

KEPT = timedelta(hours=24)


def claim(
    conn: Connection, key_id: str, idempotency_key: str, fingerprint: str, job_id: str, at: datetime
) -> str | None:
    """Claims the key for `job_id` and returns None, or returns the id of the earlier job with the same request.

    Raises `Conflict` when the key was used for another request in the last 24 hours.
    """
    table = schema.idempotency_keys
    mine = (table.c.key_id == key_id) & (table.c.idempotency_key == idempotency_key)
    conn.execute(delete(table).where(mine, table.c.created_at <= at - KEPT))
    earlier = conn.execute(select(table.c.fingerprint, table.c.job_id).where(mine)).one_or_none()
    if earlier is None:
        row = {"key_id": key_id, "idempotency_key": idempotency_key, "fingerprint": fingerprint, "job_id": job_id}
        conn.execute(insert(table), row | {"created_at": at})
        return None
    if earlier.fingerprint != fingerprint:
        raise Conflict("This Idempotency-Key was used for a different request in the last 24 hours.")
    return str(earlier.job_id)


def forget_before(conn: Connection, at: datetime) -> None:
    """Deletes the claims that are older than 24 hours at the time `at`."""
    table = schema.idempotency_keys
    conn.execute(delete(table).where(table.c.created_at <= at - KEPT))
