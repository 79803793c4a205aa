"""Maps Idempotency-Keys to jobs, so that a request that is sent twice is accepted and charged once. Writer thread."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from server.errors import Conflict
from server.store import schema

KEPT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Claim:
    fingerprint: str
    job_id: str
    exists: bool  # False: the job was deleted

    def job_for(self, fingerprint: str) -> str:
        """The job of the same request. Raises `Conflict` for another request, and when the job was deleted."""
        if self.fingerprint != fingerprint:
            raise Conflict("This Idempotency-Key was used for a different request in the last 24 hours.")
        if not self.exists:
            raise Conflict("The job of this Idempotency-Key was deleted. Use a new key to run the request again.")
        return self.job_id


def find(conn: Connection, key_id: str, idempotency_key: str, at: datetime) -> Claim | None:
    """Returns the claim of the last 24 hours, if there is one."""
    table, jobs = schema.idempotency_keys, schema.jobs
    columns = (table.c.fingerprint, table.c.job_id, jobs.c.id.is_not(None))
    mine = (table.c.key_id == key_id) & (table.c.idempotency_key == idempotency_key) & (table.c.created_at > at - KEPT)
    joined = table.outerjoin(jobs, jobs.c.id == table.c.job_id)
    row = conn.execute(select(*columns).select_from(joined).where(mine)).one_or_none()
    return None if row is None else Claim(*row)


def claim(
    conn: Connection, key_id: str, idempotency_key: str, fingerprint: str, job_id: str, at: datetime
) -> str | None:
    """Claims the key for `job_id` and returns None, or returns the id of the earlier job with the same request.

    Raises what `Claim.job_for` raises.
    """
    earlier = find(conn, key_id, idempotency_key, at)
    if earlier is not None:
        return earlier.job_for(fingerprint)
    table = schema.idempotency_keys
    conn.execute(delete(table).where(table.c.key_id == key_id, table.c.idempotency_key == idempotency_key))
    row = {"key_id": key_id, "idempotency_key": idempotency_key, "fingerprint": fingerprint, "job_id": job_id}
    conn.execute(insert(table), row | {"created_at": at})
    return None


def forget_before(conn: Connection, at: datetime) -> None:
    """Deletes the claims that are older than 24 hours at the time `at`."""
    table = schema.idempotency_keys
    conn.execute(delete(table).where(table.c.created_at <= at - KEPT))
