"""Opens the database and runs all reads and writes: one writer thread with group commit, and a few reader threads.

All writes that wait when the writer becomes free share one transaction, each in its own savepoint, and one sync to
disk, which makes full durability cheap. SQLite (WAL, synchronous=FULL) is the default; a URL selects Postgres, with the
same statements.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from pipelines.fault_points import reach
from server.errors import Unavailable
from server.store import migrations, sqlite_copies
from server.store.in_place import InPlace
from server.store.opening import (
    READERS,
    StoreUnusable,
    check_sound,
    explained,
    make_private_file,
    open_engine,
    readable_url,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 256  # writes in one commit; bounds how long the first one waits for the last


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
        self._url = readable_url(url)
        self._busy_timeout_s = busy_timeout_s
        self._engine: Engine | None = None
        self._file = Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None
        self._in_place: InPlace | None = None
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self.failed: Callable[[], None] = lambda: None  # called when the store itself fails, on the writer thread
        self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    def start(self) -> None:
        """Opens, checks and migrates the store. Raises `StoreUnusable`; a damaged file is not modified."""
        if self._file is not None:
            try:
                make_private_file(self._file)
            except OSError as error:
                raise StoreUnusable(f"The job store {self._file} cannot be opened: {error.strerror}.") from error
        with explained(self._url):
            self._engine = open_engine(self._url, self._busy_timeout_s)
            with self._begin(writing=False) as conn:
                check_sound(conn, self._url)
                self._back_up(conn)
            with self._begin(writing=True) as conn:
                migrations.upgrade(conn)
            self._in_place = None if self._file is None else InPlace(self._file)
        self._writer.start()

    def close(self) -> None:
        """Finishes the writes that are queued, then closes all connections. Idempotent."""
        self._closed = True
        if self._writer.is_alive():
            self._inbox.put(None)
            self._writer.join()
        self._readers.shutdown()
        if self._in_place is not None:
            self._in_place.close()
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

    def _back_up(self, conn: Connection) -> None:
        """Copies a store with older tables, because a new version of the program is about to change them."""
        if self._file is None or (revision := migrations.older_revision(conn)) is None:
            return
        try:
            kept = sqlite_copies.keep_before_migration(_driver_connection(conn), self._file, revision)
        except (OSError, sqlite3.Error) as error:
            text = f"The job store {self._file} must be upgraded, and a copy of it could not be made before: {error}."
            raise StoreUnusable(text) from error
        logger.info("the job store is upgraded; this is a copy of it as it was", extra={"copy": str(kept)})

    def _commit(self, batch: Sequence[_Work]) -> None:
        try:
            if self._in_place is not None and self._in_place.put_back() and self._engine is not None:
                self._engine.dispose()
            with self._begin(writing=True) as conn:
                if len(batch) == 1:  # needs no savepoint: a rollback of the transaction is enough
                    batch[0].result = batch[0].run(conn)
                else:
                    for item in batch:
                        _run(item, conn)
                reach("commit")
        except BaseException as error:  # noqa: BLE001  # the thread must survive any error: all writers depend on it
            # The whole transaction is lost, and with it every write of the batch.
            failure = _for_callers(error)
            for item in batch:
                item.error = failure
            if isinstance(failure, Unavailable):
                self.failed()
        for item in batch:
            item.resolve()  # wakes the caller's event loop through call_soon_threadsafe

    @contextmanager
    def _begin(self, *, writing: bool) -> Iterator[Connection]:
        assert self._engine is not None, "start() comes first"
        with self._engine.connect().execution_options(writing=writing) as conn, conn.begin():
            yield conn


def _driver_connection(conn: Connection) -> sqlite3.Connection:
    found = conn.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


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


def _for_callers(error: BaseException) -> Exception:
    """Returns `Unavailable` for a failure of the store itself (disk full, locked, gone), else the error unchanged."""
    if isinstance(error, OSError | sqlite3.Error):
        cause: object = error
    elif isinstance(error, OperationalError | InterfaceError):
        cause = error.orig  # not the statement, which contains prompts
    else:
        return error if isinstance(error, Exception) else RuntimeError(f"the store raised {type(error).__name__}")
    logger.error("the job store failed", extra={"cause": str(cause)})
    failure = Unavailable("The job store cannot be reached at the moment.", retry_after_s=5)
    failure.__cause__ = error
    return failure
