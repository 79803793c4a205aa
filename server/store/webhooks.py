"""Webhook calls that are still to be made. Functions that write run on the store's writer thread.

A call is written in the transaction that ends its job, and deleted when it has been delivered.
"""

from __future__ import annotations

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


def due(conn: Connection, at: datetime, limit: int) -> list[Call]:
    """Returns the calls that are due at `at`, the longest overdue first."""
    calls, events = schema.webhooks, schema.job_events
    joined = calls.join(events, events.c.id == calls.c.event_id)
    columns = (events.c.id, events.c.key_id, events.c.job_id, events.c.name, calls.c.url, calls.c.tries)
    statement = select(*columns).select_from(joined).where(calls.c.next_at <= at).order_by(calls.c.next_at).limit(limit)
    return [Call(*row) for row in conn.execute(statement)]


def next_at(conn: Connection) -> datetime | None:
    """Returns when the next call is due, or None when there is no call."""
    return conn.execute(select(schema.webhooks.c.next_at).order_by(schema.webhooks.c.next_at).limit(1)).scalar()


def done(conn: Connection, event_id: int) -> None:
    conn.execute(delete(schema.webhooks).where(schema.webhooks.c.event_id == event_id))


def postpone(conn: Connection, event_id: int, until: datetime) -> None:
    calls = schema.webhooks
    conn.execute(update(calls).where(calls.c.event_id == event_id).values(tries=calls.c.tries + 1, next_at=until))
