"""The numbered state changes of jobs, which event streams replay. `append` runs on the store's writer thread.

An event is written in the same transaction as the state change. Progress is not stored: a client that reconnects gets
the current state instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, insert, literal, select

from server.store import schema


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int  # increases with time, also across restarts
    job_id: str
    name: str  # queued, completed, failed, canceled


def append(conn: Connection, name: str, which: ColumnElement[bool]) -> None:
    """Records that the jobs selected by `which` are now in the state `name`."""
    jobs = schema.jobs
    chosen = select(jobs.c.key_id, jobs.c.id, literal(str(name))).where(which).order_by(jobs.c.seq)
    conn.execute(insert(schema.job_events).from_select(["key_id", "job_id", "name"], chosen))


def after(conn: Connection, key_id: str, job_id: str | None, event_id: int, limit: int) -> list[EventRow]:
    """Returns the events after `event_id`, oldest first, of one job or, with None, of all jobs of the key."""
    events = schema.job_events
    mine = events.c.job_id == job_id if job_id is not None else events.c.key_id == key_id
    statement = select(events.c.id, events.c.job_id, events.c.name).where(mine, events.c.id > event_id)
    return [EventRow(*row) for row in conn.execute(statement.order_by(events.c.id).limit(limit))]


def last(conn: Connection) -> int:
    """Returns the id of the latest event, or 0 when there is none."""
    return conn.execute(select(func.max(schema.job_events.c.id))).scalar() or 0
