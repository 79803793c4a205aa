"""The numbered transitions of jobs: written with the transition itself, read by event streams. Writer thread for `append`.

Only what must not be missed is here. Progress is not: who comes back is told how a job stands now.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, insert, literal, select

from server.store import schema


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int  # larger is later, across restarts too
    job_id: str
    name: str  # queued, completed, failed, canceled


def append(conn: Connection, name: str, which: ColumnElement[bool]) -> None:
    """Note that the jobs that `which` selects are now `name`."""
    jobs = schema.jobs
    chosen = select(jobs.c.key_id, jobs.c.id, literal(str(name))).where(which).order_by(jobs.c.seq)
    conn.execute(insert(schema.job_events).from_select(["key_id", "job_id", "name"], chosen))


def after(conn: Connection, key_id: str, job_id: str | None, event_id: int, limit: int) -> list[EventRow]:
    """What came after `event_id`, oldest first, of one job or of all the key's."""
    told = schema.job_events
    mine = told.c.job_id == job_id if job_id is not None else told.c.key_id == key_id
    statement = select(told.c.id, told.c.job_id, told.c.name).where(mine, told.c.id > event_id)
    return [EventRow(*row) for row in conn.execute(statement.order_by(told.c.id).limit(limit))]


def last(conn: Connection) -> int:
    """The id of the latest event there is; 0 before the first."""
    return conn.execute(select(func.max(schema.job_events.c.id))).scalar() or 0
