"""Opens the database and runs all reads and writes: one writer thread with group commit, and a few reader threads.

All writes that wait when the writer becomes free share one transaction, each in its own savepoint, and one sync to
disk, which makes full durability cheap. SQLite (WAL, synchronous=FULL) is the default; a URL selects Postgres, with the
same statements.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from server.errors import Unavailable
from server.store import migrations

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 256  # writes in one commit; bounds how long the first one waits for the last
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


class _Work:
    """One caller's function, and the future that the caller waits for."""

    def __init__(self, run: Callable[[Connection], Any]) -> None:
        self.run = run
        self.done: Future[Any] = Future()
        self.result: Any = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(self.error)


class Database:
    """Use `write` and `read` on the event loop, `write_now` and `read_now` on any other thread.

    The functions passed in run on the store's threads, so they may use only the connection and their own arguments.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        """`busy_timeout_s`: how long to wait for SQLite's write lock when another process (the CLI) holds it."""
        self._url = _readable_url(url)
        self._busy_timeout_s = busy_timeout_s
        self._engine: Engine | None = None
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    def start(self) -> None:
        """Opens, checks and migrates the store. Raises `StoreUnusable`; a damaged file is not modified."""
        if self._url.get_backend_name() == "sqlite":
            _make_private_file(Path(self._url.database or ""))
        with _explained(self._url):
            self._engine = _create_engine(self._url, self._busy_timeout_s)
            with self._begin(writing=False) as conn:
                _check(conn, self._url)
            with self._begin(writing=True) as conn:
                migrations.upgrade(conn)
        self._writer.start()

    def close(self) -> None:
        """Finishes the writes that are queued, then closes all connections. Idempotent."""
        self._closed = True
        if self._writer.is_alive():
            self._inbox.put(None)
            self._writer.join()
        self._readers.shutdown()
        if self._engine is not None:
            self._engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on the writer thread and returns once it is durable. An exception in it rolls back only this
        work.

        Raises `Unavailable`, with nothing written, when the store itself fails: disk full, locked by another process.
        """
        return cast(T, await asyncio.wrap_future(self._put(work)))

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """As `write`, but blocks. For the command line and for the start."""
        return cast(T, self._put(work).result())

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a read transaction on a reader thread. Raises `Unavailable` when the store fails."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """As `read`, but runs on the calling thread and blocks."""
        try:
            with self._begin(writing=False) as conn:
                return work(conn)
        except (OperationalError, InterfaceError) as error:
            raise _for_callers(error) from error

    def _put(self, work: Callable[[Connection], Any]) -> Future[Any]:
        if self._closed:
            raise Unavailable("The server is stopping.", retry_after_s=5)
        item = _Work(work)
        self._inbox.put(item)
        return item.done

    def _write_forever(self) -> None:
        while (first := self._inbox.get()) is not None:
            batch, last = self._drain(first)
            self._commit([item for item in batch if item.done.set_running_or_notify_cancel()])
            if last:
                return

    def _drain(self, first: _Work) -> tuple[list[_Work], bool]:
        """Returns the queued writes, up to a full batch, and True when the signal to stop was among them."""
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _commit(self, batch: Sequence[_Work]) -> None:
        try:
            with self._begin(writing=True) as conn:
                if len(batch) == 1:  # needs no savepoint: a rollback of the transaction is enough
                    batch[0].result = batch[0].run(conn)
                else:
                    for item in batch:
                        _run(item, conn)
        except Exception as error:  # noqa: BLE001  # the thread must survive any error: all writers depend on it
            # The whole transaction is lost, and with it every write of the batch.
            failure = _for_callers(error)
            for item in batch:
                item.error = failure
        for item in batch:
            item.resolve()  # wakes the caller's event loop through call_soon_threadsafe

    @contextmanager
    def _begin(self, *, writing: bool) -> Iterator[Connection]:
        assert self._engine is not None, "start() comes first"
        with self._engine.connect().execution_options(writing=writing) as conn, conn.begin():
            yield conn


def check(url: str) -> str:
    """Checks a store without creating or changing it, and returns a line about it. Raises `StoreUnusable`."""
    parsed = _readable_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return f"{_shown(parsed)} does not exist yet; the first start creates it"
    with _explained(parsed):
        engine = _create_engine(parsed, busy_timeout_s=5.0)
        try:
            with engine.connect() as conn:
                _check(conn, parsed)
        finally:
            engine.dispose()
    return f"{_shown(parsed)} is sound"


@contextmanager
def _explained(url: URL) -> Iterator[None]:
    """Turns an exception of a driver into a `StoreUnusable` whose message says what to do."""
    try:
        yield
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        text = f"No driver for this database URL: {error}. For Postgres: pip install 'agentname[postgres]'"
        raise StoreUnusable(text) from error
    except CommandError as error:
        text = f"The job store {_shown(url)} was written by a newer version of this program ({error})"
        raise StoreUnusable(f"{text}. It is left untouched.") from error
    except DatabaseError as error:
        text = f"The job store {_shown(url)} cannot be used: {error.orig}. It is left untouched."
        raise StoreUnusable(text) from error


def _run(item: _Work, conn: Connection) -> None:
    savepoint = conn.begin_nested()
    try:
        item.result = item.run(conn)
    except Exception as error:  # noqa: BLE001  # any error goes to the caller that waits for this write
        item.error = _for_callers(error)
    if item.error is None:
        savepoint.commit()
    else:
        # On a full disk, SQLite itself rolls back the whole transaction. This line then raises, so that no write of the
        # batch is reported as done.
        savepoint.rollback()


def _for_callers(error: Exception) -> Exception:
    """Returns `Unavailable` for a failure of the store itself (disk full, locked, gone), else the error unchanged."""
    if not isinstance(error, OperationalError | InterfaceError):
        return error
    logger.error("the job store failed", extra={"cause": str(error.orig)})  # not the statement: it contains prompts
    failure = Unavailable("The job store cannot be reached at the moment.", retry_after_s=5)
    failure.__cause__ = error
    return failure


def _readable_url(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreUnusable(f"The store can be sqlite:///PATH or postgresql://…, not {parsed.get_backend_name()}.")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreUnusable("The job store must be a file: sqlite:///PATH")
    return parsed


def _shown(url: URL) -> str:
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _make_private_file(path: Path) -> None:
    """Creates the file with mode 0600; SQLite gives its two journal files the mode of the main file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _create_engine(url: URL, busy_timeout_s: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_size=READERS + 2, pool_pre_ping=True)
    else:
        engine = create_engine(url, pool_size=READERS + 2, connect_args={"timeout": busy_timeout_s})
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


def _check(conn: Connection, url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    findings = list(conn.exec_driver_sql("PRAGMA quick_check(3)").scalars())
    if findings != ["ok"]:
        raise StoreUnusable(
            f"The job store {_shown(url)} is damaged ({'; '.join(findings)}). It is left untouched: restore a backup, "
            "or move the file away to start with an empty store."
        )
