"""Webhook calls that are still to be made. Functions that write run on the store's writer thread.

A call is written in the transaction that ends its job, and deleted when it has been delivered.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from server.store import schema


@dataclass(frozen=True, slots=True)
class Call:
    event_id: int  # of the job's final event in `job_events`
    key_id: str
    job_id: str
    name: str  # completed, failed, canceled
    url: str
    tries: int


def append(conn: Connection, job_id: str, at: datetime) -> None:
    """Adds a call for a job that has just ended, if its request has a webhook URL."""
    jobs, events = schema.jobs, schema.job_events
    url = (conn.execute(select(jobs.c.request).where(jobs.c.id == job_id)).scalar_one() or {}).get("webhook_url")
    if url is not None:
        event_id = conn.execute(select(func.max(events.c.id)).where(events.c.job_id == job_id)).scalar_one()
        conn.execute(insert(schema.webhooks), {"event_id": event_id, "url": url, "tries": 0, "next_at": at})


def due(conn: Connection, at: datetime, per_key: int, under_way: Collection[int] = ()) -> list[Call]:
    """Returns the calls that are due at `at`, at most `per_key` of each key, the longest overdue first.

    under_way: events whose calls are being made. Calls of revoked keys are never due.
    """
    calls, events, keys = schema.webhooks, schema.job_events, schema.api_keys
    joined = calls.join(events, events.c.id == calls.c.event_id)
    joined = joined.outerjoin(keys, keys.c.id == events.c.key_id)  # the local key has no row
    place = func.row_number().over(partition_by=events.c.key_id, order_by=calls.c.next_at)
    ranked = (
        select(events.c.id, events.c.key_id, events.c.job_id, events.c.name, calls.c.url, calls.c.tries)
        .add_columns(calls.c.next_at, place.label("place"))
        .select_from(joined)
        .where(calls.c.next_at <= at, calls.c.event_id.not_in(under_way), keys.c.revoked_at.is_(None))
        .subquery()
    )
    columns = [column for column in ranked.c if column.name not in ("next_at", "place")]
    statement = select(*columns).where(ranked.c.place <= per_key).order_by(ranked.c.next_at)
    return [Call(*row) for row in conn.execute(statement)]


def next_at(conn: Connection, after: datetime) -> datetime | None:
    """Returns when the next call that is not due yet becomes due, or None when there is none."""
    at = schema.webhooks.c.next_at
    return conn.execute(select(at).where(at > after).order_by(at).limit(1)).scalar()


def forget_key(conn: Connection, key_id: str) -> None:
    """Deletes the calls that are still to be made for jobs of this key."""
    events = schema.job_events
    of_key = select(events.c.id).where(events.c.key_id == key_id)
    conn.execute(delete(schema.webhooks).where(schema.webhooks.c.event_id.in_(of_key)))


def done(conn: Connection, event_id: int) -> None:
    conn.execute(delete(schema.webhooks).where(schema.webhooks.c.event_id == event_id))


def postpone(conn: Connection, event_id: int, until: datetime) -> None:
    calls = schema.webhooks
    conn.execute(update(calls).where(calls.c.event_id == event_id).values(tries=calls.c.tries + 1, next_at=until))
