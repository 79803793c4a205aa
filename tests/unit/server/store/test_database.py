"""The writer thread: group commit, isolation of one write from another, and failures of the disk or the file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from server.errors import Unavailable
from server.store import jobs, schema
from server.store.database import Database
from server.store.opening import StoreUnusable, check
from tests.support.stores import NOW, job_row, open_store, url_of


def insert(job_id: str):
    return lambda conn: jobs.insert_job(conn, job_row(job_id))


def ids(conn: Connection) -> list[str]:
    return list(conn.execute(text("SELECT id FROM jobs ORDER BY seq")).scalars())


def test_writes_that_wait_together_share_one_commit_in_their_order(tmp_path: Path) -> None:
    transactions: list[object] = []

    def record_and_insert(job_id: str):
        def work(conn: Connection) -> None:
            transactions.append(conn.get_transaction())
            jobs.insert_job(conn, job_row(job_id))

        return work

    async def scenario(database: Database) -> None:
        loop, blocked, unblock = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def block(conn: Connection) -> None:
            loop.call_soon_threadsafe(blocked.set)
            unblock.wait(10)

        first = asyncio.create_task(database.write(block))
        await blocked.wait()
        waiting = [asyncio.create_task(database.write(record_and_insert(f"job_{n}"))) for n in range(100)]
        await asyncio.sleep(0)  # lets the hundred tasks queue their writes
        unblock.set()
        await asyncio.gather(first, *waiting)

    with open_store(tmp_path) as database:
        asyncio.run(scenario(database))

        assert len(transactions) == 100
        assert len({id(transaction) for transaction in transactions}) == 1
        assert database.read_now(ids) == [f"job_{n}" for n in range(100)]


def test_only_the_write_that_raises_is_rolled_back(tmp_path: Path) -> None:
    def fail(conn: Connection) -> None:
        jobs.insert_job(conn, job_row("job_bad"))
        raise KeyError("mine")

    async def scenario(database: Database) -> list[object]:
        works = [insert("job_1"), fail, insert("job_2"), insert("job_1"), insert("job_3")]
        return await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)

    with open_store(tmp_path) as database:
        results = asyncio.run(scenario(database))

        assert [type(result).__name__ for result in results] == [
            "NoneType",
            "KeyError",
            "NoneType",
            "IntegrityError",
            "NoneType",
        ]
        assert database.read_now(ids) == ["job_1", "job_2", "job_3"]


def test_a_write_is_visible_to_the_next_read_and_to_other_processes(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(insert("job_1"))

        assert database.read_now(ids) == ["job_1"]
        other = sqlite3.connect(tmp_path / "store.db")
        assert other.execute("SELECT id FROM jobs").fetchall() == [("job_1",)]
        other.close()


def test_every_connection_syncs_fully_to_a_write_ahead_log_and_enforces_foreign_keys(tmp_path: Path) -> None:
    def pragmas(conn: Connection) -> list[object]:
        return [
            conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    with open_store(tmp_path, durable=True) as database:
        assert database.write_now(pragmas) == ["wal", 2, 1]
        assert database.read_now(pragmas) == ["wal", 2, 1]


def test_only_their_owner_can_read_the_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as database:
        database.write_now(insert("job_1"))

        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
        assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_full_disk_raises_unavailable_and_the_store_works_again_once_there_is_space(tmp_path: Path) -> None:
    def allow_pages(number: int):
        return lambda conn: conn.exec_driver_sql(f"PRAGMA max_page_count={number}").scalar()

    def large(conn: Connection) -> None:
        jobs.insert_job(conn, job_row("job_large", request={"prompt": "x" * 200_000}))

    with open_store(tmp_path) as database:
        database.write_now(allow_pages(1))  # SQLite reads 1 as "no more pages than the file has now"
        with pytest.raises(Unavailable) as raised:
            database.write_now(large)
        assert raised.value.retry_after_s == 5
        assert "prompt" not in raised.value.message

        database.write_now(allow_pages(1_000_000))
        database.write_now(large)
        assert database.read_now(ids) == ["job_large"]


def test_when_sqlite_rolls_back_by_itself_no_write_of_the_batch_is_reported_as_done(tmp_path: Path) -> None:
    """SQLite rolls back on some I/O errors. Later statements would otherwise be committed one by one."""

    def lose_the_transaction(conn: Connection) -> None:
        conn.exec_driver_sql("ROLLBACK")
        raise KeyError("mine")

    async def scenario(database: Database) -> list[object]:
        works = [insert("job_1"), lose_the_transaction, insert("job_2")]
        return await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)

    with open_store(tmp_path) as database:
        results = asyncio.run(scenario(database))

        done = [f"job_{n}" for n, result in ((1, results[0]), (2, results[2])) if result is None]
        assert isinstance(results[1], Unavailable)
        assert database.read_now(ids) == done  # which writes share the transaction depends on thread timing
        database.write_now(insert("job_3"))
        assert database.read_now(ids) == [*done, "job_3"]


def test_a_lock_held_by_another_process_raises_unavailable_instead_of_hanging(tmp_path: Path) -> None:
    with open_store(tmp_path, busy_timeout_s=0.05) as database:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            database.write_now(insert("job_1"))
        assert database.read_now(ids) == []  # the lock does not stop readers

        other.execute("COMMIT")
        other.close()
        database.write_now(insert("job_2"))
        assert database.read_now(ids) == ["job_2"]


def test_closing_finishes_queued_writes_and_accepts_no_more(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        tasks = [asyncio.create_task(database.write(insert(f"job_{n}"))) for n in range(20)]
        await asyncio.sleep(0)  # lets the tasks queue their writes
        database.close()
        await asyncio.gather(*tasks)
        with pytest.raises(Unavailable):
            await database.write(insert("job_late"))

    with open_store(tmp_path) as database:
        asyncio.run(scenario(database))
    with open_store(tmp_path) as database:
        assert len(database.read_now(ids)) == 20


def test_a_file_that_is_not_a_database_is_refused_and_not_modified(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is not a database" * 1000)
    before = path.read_bytes()
    database = Database(url_of(tmp_path))

    with pytest.raises(StoreUnusable, match=r"store\.db cannot be used: file is not a database"):
        database.start()
    database.close()

    assert path.read_bytes() == before


def test_a_damaged_database_is_refused_and_not_modified(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        for n in range(200):
            database.write_now(insert(f"job_{n}"))
    path = tmp_path / "store.db"
    content = bytearray(path.read_bytes())
    content[8 * 4096 : 16 * 4096] = b"\xa5" * 8 * 4096
    path.write_bytes(content)
    database = Database(url_of(tmp_path))

    with pytest.raises(StoreUnusable, match=r"store\.db"):
        database.start()
    database.close()
    with pytest.raises(StoreUnusable, match=r"store\.db"):
        check(url_of(tmp_path))

    assert path.read_bytes() == bytes(content)


def test_checking_a_store_creates_no_file(tmp_path: Path) -> None:
    assert "does not exist yet" in check(url_of(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with open_store(tmp_path):
        pass
    assert "is sound" in check(url_of(tmp_path))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x"])
def test_an_in_memory_or_unsupported_database_is_refused(url: str) -> None:
    with pytest.raises(StoreUnusable):
        Database(url)


def test_every_table_compiles_for_postgres() -> None:
    statements = [
        str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in schema.metadata.sorted_tables
    ]

    assert len(statements) == len(schema.metadata.tables)
    assert any("seq BIGSERIAL" in statement for statement in statements)
    assert any("TIMESTAMP WITH TIME ZONE" in statement for statement in statements)


def test_times_are_read_back_aware_and_in_utc(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(insert("job_1"))
        row = database.read_now(lambda conn: jobs.get_job(conn, "job_1", "anna"))

    assert row is not None
    assert row.created_at == NOW
    assert row.created_at.utcoffset() is not None


def test_a_store_that_was_removed_is_written_again_with_all_that_was_accepted(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(insert("job_1"))
        for path in tmp_path.glob("store.db*"):
            path.unlink()
        database.write_now(insert("job_2"))
        assert database.read_now(ids) == ["job_1", "job_2"]
    with open_store(tmp_path) as database:
        assert database.read_now(ids) == ["job_1", "job_2"]


def test_nothing_is_written_when_another_file_has_taken_the_stores_place(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(insert("job_1"))
        (tmp_path / "store.db").rename(tmp_path / "moved.db")
        (tmp_path / "store.db").write_bytes(b"")
        with pytest.raises(Unavailable, match="replaced"):
            database.write_now(insert("job_2"))
    assert (tmp_path / "store.db").read_bytes() == b""
