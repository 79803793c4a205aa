"""Opens a store: its URL, SQLAlchemy's engine for it, and the sentences that say why it cannot be used. Any thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

READERS = 4  # threads; a read takes well under a millisecond
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",  # a commit survives a power failure from the moment it returns
    "foreign_keys=ON",
    "journal_size_limit=67108864",  # bytes
)


class StoreUnusable(Exception):
    """The store cannot be opened, and a restart will not help. The message says what to do."""


class _Cursor(Protocol):
    def execute(self, statement: str, /) -> object: ...
    def close(self) -> None: ...


def check(url: str) -> str:
    """Checks a store without creating or changing it, and returns a line about it. Raises `StoreUnusable`."""
    parsed = readable_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return f"{shown(parsed)} does not exist yet; the first start creates it"
    with explained(parsed):
        engine = open_engine(parsed, busy_timeout_s=5.0)
        try:
            with engine.connect() as conn:
                check_sound(conn, parsed)
        finally:
            engine.dispose()
    return f"{shown(parsed)} is sound"


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turns an exception of a driver into a `StoreUnusable` whose message says what to do."""
    try:
        yield
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        text = f"No driver for this database URL: {error}. For Postgres: pip install 'agentname[postgres]'"
        raise StoreUnusable(text) from error
    except CommandError as error:
        text = f"The job store {shown(url)} was written by a newer version of this program ({error})"
        raise StoreUnusable(f"{text}. It is left untouched.") from error
    except DatabaseError as error:
        text = f"The job store {shown(url)} cannot be used: {error.orig}. It is left untouched."
        raise StoreUnusable(text) from error


def readable_url(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreUnusable(f"The store can be sqlite:///PATH or postgresql://…, not {parsed.get_backend_name()}.")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreUnusable("The job store must be a file: sqlite:///PATH")
    return parsed


def shown(url: URL) -> str:
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def make_private_file(path: Path) -> None:
    """Creates the file with mode 0600; SQLite gives its two journal files the mode of the main file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def open_engine(url: URL, busy_timeout_s: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_size=READERS + 2, pool_pre_ping=True)
    else:
        uri = f"{Path(url.database or '').absolute().as_uri()}?mode=rw"  # which creates no file

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, check_same_thread=False)

        engine = create_engine(url, pool_size=READERS + 2, creator=connect)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself; `_begin_sqlite` does
    cursor: _Cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another one has written in between, whatever
    # the busy_timeout is. A writing transaction therefore takes the lock when it begins.
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writing") else "BEGIN")


def check_sound(conn: Connection, url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    findings = list(conn.exec_driver_sql("PRAGMA quick_check(3)").scalars())
    if findings != ["ok"]:
        raise StoreUnusable(
            f"The job store {shown(url)} is damaged ({'; '.join(findings)}). It is left untouched: restore a backup, "
            "or move the file away to start with an empty store."
        )
