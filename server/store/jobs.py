"""Job rows and their state changes. Runs on the store's writer thread; functions that only read run on a reader thread.

Every state change is one UPDATE with the expected state, and attempt, in its WHERE clause. Its row count tells whether
the change took place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, exists, insert, select, update

from server.job import State
from server.store import events, schema, usage, webhooks
from server.store.cursors import read_cursor, write_cursor

JsonObject: TypeAlias = dict[str, Any]

LIVE = (State.QUEUED, State.PROCESSING)
TERMINAL = tuple(state for state in State if state.terminal)
UNREADABLE = {
    "code": "not_runnable",
    "message": "The stored job can no longer be read.",
    "retryable": False,
}
MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    id: str
    key_id: str
    type: Literal["image", "video"]
    model: str
    state: State
    request: JsonObject  # all that is needed to run the job again
    params: JsonObject
    warnings: list[str]
    charged_day: str | None  # "2026-11-24"
    charged_kind: usage.Kind | None
    charged_units: int
    attempt: int
    created_at: datetime  # all times aware, UTC
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    error: JsonObject | None = None
    metrics: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow:
    id: str  # 22 base62 characters
    job_id: str
    index: int
    mime_type: str
    width: int
    height: int
    duration_s: float | None
    seed: int
    n_bytes: int
    sha256: str
    file_name: str
    flagged: bool | None = None  # True: a safety checker blacked it out


_job_columns = [schema.jobs.c[field.name] for field in fields(JobRow)]
_output_columns = [schema.outputs.c[field.name] for field in fields(OutputRow)]


def _job(row: RowMapping) -> JobRow:
    values = {column.name: row[column] for column in _job_columns}
    return JobRow(**{**values, "state": State(values["state"])})


def _output(row: RowMapping) -> OutputRow:
    return OutputRow(**{column.name: row[column] for column in _output_columns})


def insert_job(conn: Connection, row: JobRow) -> None:
    conn.execute(insert(schema.jobs), asdict(row))
    events.append(conn, row.state, schema.jobs.c.id == row.id)


def get_job(conn: Connection, job_id: str, key_id: str) -> JobRow | None:
    """Returns None for an unknown id and for a job of another key."""
    jobs = schema.jobs
    row = (
        conn.execute(select(*_job_columns).where(jobs.c.id == job_id, jobs.c.key_id == key_id)).mappings().one_or_none()
    )
    return None if row is None else _job(row)


def outputs_of(conn: Connection, job_id: str) -> list[OutputRow]:
    outputs = schema.outputs
    rows = conn.execute(select(*_output_columns).where(outputs.c.job_id == job_id).order_by(outputs.c.index)).mappings()
    return [_output(row) for row in rows]


def _move(
    conn: Connection, job_id: str, states: Sequence[State], to: State, attempt: int | None, **values: Any
) -> bool:
    """Moves a job to the state `to` if it is in one of `states`, and on `attempt` unless that is None."""
    jobs = schema.jobs
    statement = update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(states)).values(state=to, **values)
    if attempt is not None:
        statement = statement.where(jobs.c.attempt == attempt)
    moved = conn.execute(statement).rowcount == 1
    if moved and to.terminal:
        events.append(conn, to, jobs.c.id == job_id)
        webhooks.append(conn, job_id, values["finished_at"])
    return moved


def start_job(conn: Connection, job_id: str, attempt: int, at: datetime) -> bool:
    return _move(conn, job_id, [State.QUEUED], State.PROCESSING, attempt, started_at=at)


def complete_job(
    conn: Connection,
    job_id: str,
    attempt: int,
    outputs: Sequence[OutputRow],
    metrics: JsonObject | None,
    at: datetime,
    expires_at: datetime | None,
    warnings: Sequence[str] | None = None,
) -> bool:
    """Stores the outputs of a job and completes it.

    Returns False and writes nothing when the job has ended or another attempt owns it; the caller removes the files.
    """
    values: dict[str, object] = {"metrics": metrics, "finished_at": at, "expires_at": expires_at}
    if warnings is not None:
        values["warnings"] = list(warnings)
    if not _move(conn, job_id, LIVE, State.COMPLETED, attempt, **values):
        return False
    if outputs:
        conn.execute(insert(schema.outputs), [asdict(output) for output in outputs])
    return True


def fail_job(conn: Connection, job_id: str, attempt: int, error: JsonObject, at: datetime, refund: bool = True) -> bool:
    moved = _move(conn, job_id, LIVE, State.FAILED, attempt, error=error, finished_at=at)
    if moved and refund:
        usage.refund(conn, job_id)
    return moved


def cancel_job(conn: Connection, job_id: str, at: datetime, refund: bool) -> bool:
    moved = _move(conn, job_id, LIVE, State.CANCELED, None, finished_at=at)
    if moved and refund:
        usage.refund(conn, job_id)
    return moved


def delete_job(conn: Connection, job_id: str, key_id: str) -> list[str]:
    """Deletes a finished job, so that its id becomes unknown. Returns the names of the files to remove.

    Does nothing for a live job, an unknown one and one of another key.
    """
    jobs = schema.jobs
    mine = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.key_id == key_id, jobs.c.state.in_(TERMINAL))
    return _delete(conn, conn.execute(mine).scalars().all())


def forget_jobs_before(conn: Connection, at: datetime) -> list[str]:
    """Deletes the jobs that ended before `at`, at most 500 of them. Returns the names of the files to remove."""
    jobs = schema.jobs
    old = select(jobs.c.id).where(jobs.c.state.in_(TERMINAL), jobs.c.finished_at < at).limit(500)  # bounds the write
    return _delete(conn, conn.execute(old).scalars().all())


def _delete(conn: Connection, job_ids: Iterable[str]) -> list[str]:
    file_names: list[str] = []
    for job_id in job_ids:
        file_names += [output.file_name for output in outputs_of(conn, job_id)]
        conn.execute(delete(schema.outputs).where(schema.outputs.c.job_id == job_id))
        conn.execute(delete(schema.jobs).where(schema.jobs.c.id == job_id))
    return file_names


def list_jobs(
    conn: Connection, key_id: str, status: State | str | None, limit: int, cursor: str | None, kind: str | None = None
) -> tuple[list[JobRow], str | None]:
    """Returns a page of the key's jobs, newest first, and the cursor of the next page, None on the last one."""
    jobs = schema.jobs
    statement = select(jobs.c.seq, *_job_columns).where(jobs.c.key_id == key_id)
    if status is not None:
        statement = statement.where(jobs.c.state == State(status))
    if kind is not None:
        statement = statement.where(jobs.c.type == kind)
    if cursor is not None:
        statement = statement.where(jobs.c.seq < read_cursor(cursor))
    rows = conn.execute(statement.order_by(jobs.c.seq.desc()).limit(limit + 1)).mappings().all()
    page = [_job(row) for row in rows[:limit]]
    return page, write_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None


def cursor_after(conn: Connection, key_id: str, job_id: str) -> str | None:
    """Returns the cursor of the page after this job, or None for an unknown job and for one of another key."""
    jobs = schema.jobs
    seq = conn.execute(select(jobs.c.seq).where(jobs.c.id == job_id, jobs.c.key_id == key_id)).scalar()
    return None if seq is None else write_cursor(seq)


def recover_jobs(conn: Connection, at: datetime, suspects: Mapping[str, str] = MappingProxyType({})) -> list[JobRow]:
    """Recovers the jobs at the start of the server, before anything runs.

    A job that was processing is queued again. suspects: ids of the jobs that were at work when the process ended by
    itself, and what was done for them. That costs them an attempt; a job that has used all fails and is refunded.
    Returns all queued jobs in the order of their acceptance.
    """
    jobs = schema.jobs
    for job_id, action in suspects.items():
        attempt = conn.execute(select(jobs.c.attempt).where(jobs.c.id == job_id, jobs.c.state.in_(LIVE))).scalar()
        if attempt is not None and attempt >= MOST_ATTEMPTS:
            fail_job(conn, job_id, attempt, _gave_up(attempt, action), at)
        elif attempt is not None:
            conn.execute(update(jobs).where(jobs.c.id == job_id).values(attempt=attempt + 1))
    processing = jobs.c.state == State.PROCESSING
    events.append(conn, State.QUEUED, processing)
    conn.execute(update(jobs).where(processing).values(state=State.QUEUED, started_at=None))
    queued = jobs.c.state == State.QUEUED
    try:
        return _read_in_order(conn, queued)
    except (ValueError, TypeError):  # a row that no longer decodes must not stop the server from starting
        for job_id, attempt in conn.execute(select(jobs.c.id, jobs.c.attempt).where(queued)).all():
            if not _is_readable(conn, job_id):
                conn.execute(update(jobs).where(jobs.c.id == job_id).values(request={}, params={}, warnings=[]))
                fail_job(conn, job_id, attempt, UNREADABLE, at)
        return _read_in_order(conn, queued)


def _gave_up(attempts: int, action: str) -> JsonObject:
    message = f"The server process ended {attempts} times at work on this job, the last time in its {action}."
    return {"code": "engine_stopped", "message": message, "retryable": False}


def _read_in_order(conn: Connection, which: ColumnElement[bool]) -> list[JobRow]:
    statement = select(*_job_columns).where(which).order_by(schema.jobs.c.seq)
    return [_job(row) for row in conn.execute(statement).mappings()]


def _is_readable(conn: Connection, job_id: str) -> bool:
    try:
        return bool(_read_in_order(conn, schema.jobs.c.id == job_id))
    except (ValueError, TypeError):
        return False


def get_output(conn: Connection, output_id: str) -> tuple[OutputRow, str] | None:
    """Returns the output and the id of the key that owns it, or None when the id is unknown."""
    outputs, jobs = schema.outputs, schema.jobs
    joined = outputs.join(jobs, jobs.c.id == outputs.c.job_id)
    statement = select(jobs.c.key_id, *_output_columns).select_from(joined).where(outputs.c.id == output_id)
    row = conn.execute(statement).mappings().one_or_none()
    return None if row is None else (_output(row), row[jobs.c.key_id])


def expired(conn: Connection, at: datetime) -> list[str]:
    """Returns the ids of jobs that have expired and still have outputs."""
    jobs, outputs = schema.jobs, schema.outputs
    has_outputs = exists().where(outputs.c.job_id == jobs.c.id)
    statement = select(jobs.c.id).where(jobs.c.expires_at <= at, has_outputs).order_by(jobs.c.expires_at)
    return list(conn.execute(statement).scalars())


def forget_outputs(conn: Connection, job_id: str) -> list[str]:
    """Deletes a finished job's outputs and its prompt; its row stays. Returns the names of the files to remove."""
    jobs, outputs = schema.jobs, schema.outputs
    file_names = [output.file_name for output in outputs_of(conn, job_id)]
    conn.execute(delete(outputs).where(outputs.c.job_id == job_id))
    conn.execute(update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(TERMINAL)).values(request={}))
    return file_names


def file_names(conn: Connection) -> set[str]:
    """Returns the file names of all outputs; the sweep at the start must not delete these."""
    return set(conn.execute(select(schema.outputs.c.file_name)).scalars())
