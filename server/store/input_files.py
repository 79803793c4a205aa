"""Pictures and clips that jobs start from, and which jobs use them. None is forgotten while an unfinished job uses it.

`get`, `page`, `cursor_after`, `same` and `used_bytes` may run on a reader thread, everything else on the store's writer
thread.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, exists, func, insert, select, update

from server.store import schema
from server.store.cursors import read_cursor, write_cursor
from server.store.jobs import LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFileRow:
    id: str  # "file_" and 22 base62 characters
    key_id: str
    sha256: str  # of the file as it was sent, hexadecimal
    mime_type: str  # of the file as it was sent, by its bytes
    n_bytes: int  # of the file as it was sent
    kept_bytes: int  # of the file on disk
    file_name: str
    width: int  # pixels, upright
    height: int  # pixels
    num_frames: int
    fps: float | None  # None for a picture
    warnings: list[str]
    listed: bool  # False: it came with a request, and goes with the jobs that use it
    created_at: datetime
    expires_at: datetime

    @property
    def kept_mime_type(self) -> str:
        """A picture is kept as PNG, a clip in its own container."""
        return "image/png" if self.fps is None else self.mime_type

    @property
    def duration_s(self) -> float | None:
        return None if self.fps is None else self.num_frames / self.fps


_table = schema.input_files
_columns = [_table.c[field.name] for field in fields(InputFileRow)]


def same(conn: Connection, key_id: str, sha256: str) -> InputFileRow | None:
    """Returns the key's file of these contents, also an expired one that is still on disk."""
    found = select(*_columns).where(_table.c.key_id == key_id, _table.c.sha256 == sha256)
    row = conn.execute(found).mappings().one_or_none()
    return None if row is None else _row(row)


def used_bytes(conn: Connection, key_id: str) -> int:
    """Returns the bytes that the key's files take on disk, unlisted ones too."""
    return int(conn.execute(select(func.sum(_table.c.kept_bytes)).where(_table.c.key_id == key_id)).scalar() or 0)


def add(conn: Connection, row: InputFileRow) -> None:
    """The key must not have a file of the same contents: see `renew`."""
    conn.execute(insert(_table), asdict(row))


def renew(
    conn: Connection, key_id: str, sha256: str, listed: bool, at: datetime, expires_at: datetime
) -> InputFileRow | None:
    """Lets the key's file of these contents expire later, and lists it if `listed`. Returns None when there is none."""
    row = same(conn, key_id, sha256)
    if row is None:
        return None
    was_listed = row.listed and row.expires_at > at  # one that was deleted or has expired begins anew
    renewed = replace(row, listed=listed or was_listed, expires_at=max(expires_at, row.expires_at))
    values = {"listed": renewed.listed, "expires_at": renewed.expires_at}
    conn.execute(update(_table).where(_table.c.id == row.id).values(values))
    return renewed


def get(conn: Connection, key_id: str, file_ids: Collection[str], at: datetime) -> dict[str, InputFileRow]:
    """Returns those of the files that the key has and that have not expired, by id."""
    found = select(*_columns).where(_table.c.key_id == key_id, _table.c.id.in_(file_ids), _table.c.expires_at > at)
    return {row.id: row for row in map(_row, conn.execute(found).mappings())}


def page(
    conn: Connection, key_id: str, at: datetime, limit: int, cursor: str | None
) -> tuple[list[InputFileRow], str | None]:
    """Returns a page of the key's listed files, newest first, and the cursor of the next page, None on the last one."""
    mine = select(_table.c.seq, *_columns).where(_table.c.key_id == key_id, _table.c.listed, _table.c.expires_at > at)
    if cursor is not None:
        mine = mine.where(_table.c.seq < read_cursor(cursor))
    rows = conn.execute(mine.order_by(_table.c.seq.desc()).limit(limit + 1)).mappings().all()
    found = [_row(row) for row in rows[:limit]]
    return found, write_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None


def cursor_after(conn: Connection, key_id: str, file_id: str, at: datetime) -> str | None:
    """Returns the cursor of the page that begins after a listed file of the key; None for another one."""
    mine = (_table.c.id == file_id, _table.c.key_id == key_id, _table.c.listed, _table.c.expires_at > at)
    seq = conn.execute(select(_table.c.seq).where(*mine)).scalar_one_or_none()
    return None if seq is None else write_cursor(seq)


def refer(conn: Connection, job_id: str, file_ids: AbstractSet[str]) -> bool:
    """Notes which files a stored job uses. Returns False, and notes nothing, when one of them is gone."""
    if not file_ids:
        return True
    known = conn.execute(select(func.count()).where(_table.c.id.in_(file_ids))).scalar()
    if known != len(file_ids):
        return False
    conn.execute(insert(schema.job_inputs), [{"job_id": job_id, "file_id": each} for each in file_ids])
    return True


def take_away(conn: Connection, key_id: str, file_id: str, at: datetime) -> str | None:
    """Ends the time of a listed file, so that its id becomes unknown. `forget_expired` then removes it.

    Returns None for an unknown file, an unlisted one and one of another key, otherwise its id.
    """
    mine = (_table.c.id == file_id, _table.c.key_id == key_id, _table.c.listed, _table.c.expires_at > at)
    gone = conn.execute(update(_table).where(*mine).values(listed=False, expires_at=at)).rowcount
    return file_id if gone else None


def forget(conn: Connection, file_id: str) -> None:
    """Deletes a file, whoever uses it."""
    conn.execute(delete(_table).where(_table.c.id == file_id))


def forget_expired(conn: Connection, at: datetime) -> list[str]:
    """Deletes files that have expired and that no unfinished job uses, at most 500. Returns the names of the files to
    remove.
    """
    unused = and_(_table.c.expires_at <= at, ~_is_used())
    rows = conn.execute(select(_table.c.id, _table.c.file_name).where(unused).limit(500)).all()
    if rows:
        conn.execute(delete(_table).where(_table.c.id.in_([row.id for row in rows])))
    return [row.file_name for row in rows]


def file_names(conn: Connection) -> set[str]:
    """Returns the file names of all files; the sweep at the start must not delete these."""
    return set(conn.execute(select(_table.c.file_name)).scalars())


def _is_used() -> ColumnElement[bool]:
    jobs, job_inputs = schema.jobs, schema.job_inputs
    joined = job_inputs.join(jobs, jobs.c.id == job_inputs.c.job_id)
    return exists().select_from(joined).where(job_inputs.c.file_id == _table.c.id, jobs.c.state.in_(LIVE))


def _row(row: RowMapping) -> InputFileRow:
    return InputFileRow(**{column.name: row[column] for column in _columns})
