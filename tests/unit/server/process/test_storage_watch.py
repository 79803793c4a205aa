"""Nothing is accepted that could not be kept, and the reason is told; folders that were removed are made again."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import Unavailable
from server.process import storage_watch
from server.process.storage_watch import StorageWatch
from server.store.database import Database
from tests.support.stores import open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_store(tmp_path, busy_timeout_s=0.01) as opened:
        yield opened


def watch(tmp_path: Path, database: Database, floor_bytes: int = 0) -> StorageWatch:
    return StorageWatch(tmp_path, [tmp_path / "outputs"], database, floor_bytes)


async def reason(watch: StorageWatch) -> str | None:
    await watch.look()
    watch.close()
    return watch.reason


async def test_a_folder_that_works_is_no_reason(tmp_path: Path, database: Database) -> None:
    assert await reason(watch(tmp_path, database)) is None
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".probe")]


async def test_a_folder_that_was_removed_is_made_again(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    looking = watch(tmp_path, database)
    await looking.look()
    assert not caplog.records, "the folders of a new data folder have not been removed by anybody"
    (tmp_path / "outputs").rmdir()
    assert await reason(looking) is None
    assert "removed" in caplog.text
    assert (tmp_path / "outputs").is_dir()


async def test_too_little_room_is_a_reason(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_watch, "FLOOR_SHARE", 1.0)
    assert "is full" in str(await reason(watch(tmp_path, database, floor_bytes=1 << 60)))


async def test_a_disk_that_takes_no_file_is_a_reason_until_it_does(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [OSError(errno.EROFS, os.strerror(errno.EROFS)), None]
    monkeypatch.setattr(storage_watch, "write_fault", lambda folder: faults.pop(0))
    looking = watch(tmp_path, database)
    await looking.look()
    assert looking.reason == "the data folder cannot be written (Read-only file system)"
    assert await reason(looking) is None


async def test_a_store_that_another_process_has_locked_is_a_reason(tmp_path: Path, database: Database) -> None:
    with database._begin(writing=True):
        assert await reason(watch(tmp_path, database)) == "the job store cannot be written"
    assert await reason(watch(tmp_path, database)) is None


async def test_a_disk_that_does_not_answer_is_a_reason_and_is_asked_only_once(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), []

    def hangs(folder: Path) -> None:
        asked.append(folder)
        answers.wait(30)

    monkeypatch.setattr(storage_watch, "write_fault", hangs)
    monkeypatch.setattr(storage_watch, "ANSWER_S", 0.01)
    looking = watch(tmp_path, database)
    await looking.look()
    await looking.look()
    assert (looking.reason, len(asked)) == ("the disk of the data folder does not answer", 1)
    answers.set()
    looking.close()


async def test_a_stopped_store_is_a_reason(tmp_path: Path, database: Database) -> None:
    looking = watch(tmp_path, database)

    def fail(conn: object) -> None:
        raise Unavailable("gone", retry_after_s=1)

    looking._database = type("Store", (), {"write": lambda self, work: database.write(fail)})()  # type: ignore[assignment]
    assert await reason(looking) == "the job store cannot be written"


async def test_a_write_that_fails_is_looked_at_at_once(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[OSError | None] = [None, OSError(errno.EROFS, os.strerror(errno.EROFS))]
    seen = asyncio.Event()

    def look(folder: Path) -> OSError | None:
        if len(faults) == 1:
            seen.set()
        return faults.pop(0) if len(faults) > 1 else faults[0]

    monkeypatch.setattr(storage_watch, "write_fault", look)
    monkeypatch.setattr(storage_watch, "LOOK_S", 600.0)
    looking = watch(tmp_path, database)
    running = asyncio.create_task(looking.run())

    while not seen.is_set():
        with pytest.raises(Unavailable):
            await database.write(lambda conn: conn.exec_driver_sql("SELECT * FROM nowhere"))
    running.cancel()
    looking.close()
