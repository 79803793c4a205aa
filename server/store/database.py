"""The store's one door: a single writer thread with group commit, and short reads on a few threads beside it.

All writes that wait when the writer comes round share one transaction, each in its own savepoint, and one sync to disk:
that is what makes full durability cheap. SQLite (WAL, synchronous=FULL) by default, Postgres by URL with the same statements.
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

MAX_BATCH = 256  # works in one commit: bounds how long the first one waits for the last one
READERS = 4  # threads; a read takes well under a millisecond
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",  # a commit is on the disk when it returns, also if the power fails
    "foreign_keys=ON",
    "journal_size_limit=67108864",  # bytes
)


class StoreUnusable(Exception):
    """The store cannot be opened, and starting again will not help. The message says what to do."""


class _Cursor(Protocol):
    def execute(self, statement: str, /) -> object: ...
    def close(self) -> None: ...


class _Work:
    """One caller's function and the future it waits on."""

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
    """`write` and `read` from the event loop, `write_now` and `read_now` from anywhere else.

    What is handed in runs on the store's threads: it may touch the connection and its own arguments, nothing else.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        """busy_timeout_s: how long to wait for another program (the command line) that holds SQLite's write lock."""
        self._url = _readable_url(url)
        self._busy_timeout_s = busy_timeout_s
        self._engine: Engine | None = None
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    def start(self) -> None:
        """Open, check and migrate. Raises `StoreUnusable`; a damaged file is left as it is."""
        if self._url.get_backend_name() == "sqlite":
            _make_private_file(Path(self._url.database or ""))
        with _made_plain(self._url):
            self._engine = _create_engine(self._url, self._busy_timeout_s)
            with self._begin(writing=False) as conn:
                _check(conn, self._url)
            with self._begin(writing=True) as conn:
                migrations.upgrade(conn)
        self._writer.start()

    def close(self) -> None:
        """Finish what was handed in, then let go. Idempotent."""
        self._closed = True
        if self._writer.is_alive():
            self._inbox.put(None)
            self._writer.join()
        self._readers.shutdown()
        if self._engine is not None:
            self._engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writer thread; returns when it is on the disk. What it raises undoes it alone.

        Raises `Unavailable` when the store itself fails (disk full, locked by another program): then nothing was written.
        """
        return cast(T, await asyncio.wrap_future(self._put(work)))

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """As `write`, blocking. For the command line and for start-up."""
        return cast(T, self._put(work).result())

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction of its own, on this thread."""
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
        """What waits now, up to a full batch; True when the order to stop was among it."""
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
                if len(batch) == 1:  # alone it needs no savepoint: the transaction undoes it
                    batch[0].result = batch[0].run(conn)
                else:
                    for item in batch:
                        _run(item, conn)
        except Exception as error:  # noqa: BLE001  # the thread must outlive anything: everybody waits for it
            # The transaction as a whole is lost, and with it every work in it.
            failure = _for_callers(error)
            for item in batch:
                item.error = failure
        for item in batch:
            item.resolve()  # wakes the caller's event loop by call_soon_threadsafe

    @contextmanager
    def _begin(self, *, writing: bool) -> Iterator[Connection]:
        assert self._engine is not None, "start() comes first"
        with self._engine.connect().execution_options(writing=writing) as conn, conn.begin():
            yield conn


def check(url: str) -> str:
    """Look at a store without making or changing one; says what is there. Raises `StoreUnusable`."""
    parsed = _readable_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return f"{_shown(parsed)} is not there yet; the first start makes it"
    with _made_plain(parsed):
        engine = _create_engine(parsed, busy_timeout_s=5.0)
        try:
            with engine.connect() as conn:
                _check(conn, parsed)
        finally:
            engine.dispose()
    return f"{_shown(parsed)} is sound"


@contextmanager
def _made_plain(url: URL) -> Iterator[None]:
    """Turns what a driver raises into a line for the owner."""
    try:
        yield
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        text = f"No driver for this database URL: {error}. For Postgres: pip install 'agentname[postgres]'"
        raise StoreUnusable(text) from error
    except CommandError as error:
        text = (
            f"The job store {_shown(url)} was made by a newer version of this program ({error}). It is left untouched."
        )
        raise StoreUnusable(text) from error
    except DatabaseError as error:
        raise StoreUnusable(
            f"The job store {_shown(url)} cannot be used: {error.orig}. It is left untouched."
        ) from error


def _run(item: _Work, conn: Connection) -> None:
    savepoint = conn.begin_nested()
    try:
        item.result = item.run(conn)
    except Exception as error:  # noqa: BLE001  # whatever it is goes to the one who waits for it
        item.error = _for_callers(error)
    if item.error is None:
        savepoint.commit()
    else:
        # On a full disk SQLite ends the whole transaction by itself; then this raises and nobody is told "done".
        savepoint.rollback()


def _for_callers(error: Exception) -> Exception:
    """The store's own failures (disk full, locked, gone) are `Unavailable`; anything else is as it was raised."""
    if not isinstance(error, OperationalError | InterfaceError):
        return error
    logger.error("the job store failed", extra={"cause": str(error.orig)})  # not the statement: it carries prompts
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
    """SQLite gives its journal files the mode of the main file: one call decides for all three."""
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
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin_sqlite` does
    cursor: _Cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another one wrote in between, whatever the
    # busy_timeout: so a writer takes the lock at its beginning.
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writing") else "BEGIN")


def _check(conn: Connection, url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    findings = list(conn.exec_driver_sql("PRAGMA quick_check(3)").scalars())
    if findings != ["ok"]:
        raise StoreUnusable(
            f"The job store {_shown(url)} is damaged ({'; '.join(findings)}). It is left untouched: restore a backup, "
            "or move it away to begin with an empty one."
        )
