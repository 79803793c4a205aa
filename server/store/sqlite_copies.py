"""Copies of a SQLite store: backups, and the file that takes the place of one that was removed. Any thread.

A copy is made by SQLite's own online backup, so that it is complete and consistent while the server writes.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pipelines.fault_points import reach

KEPT_BEFORE_MIGRATIONS = 3
JOURNALS = ("-wal", "-shm")  # of the database beside it; they mean nothing for another file


def copy(source: sqlite3.Connection, target: Path) -> None:
    """Writes the database to a file that only its user can read, completely or not at all.

    Raises `OSError` and `sqlite3.Error`; then `target` is as it was.
    """
    unfinished = target.with_name(f"{target.name}.new")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(sqlite3.connect(unfinished)) as copied:
            source.backup(copied)
        reach("copy", target.name)  # written, and not yet in its place
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """As `copy`, of a database that other processes may use meanwhile."""
    with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as database:
        copy(database, target)


def keep_before_migration(source: sqlite3.Connection, path: Path, revision: str) -> Path:
    """Copies a store that is about to be migrated, beside it, and forgets all but the newest of such copies."""
    target = path.with_name(f"{path.name}.before-{revision}")
    copy(source, target)
    kept = sorted(path.parent.glob(f"{path.name}.before-*"), key=lambda each: each.stat().st_mtime_ns)
    for old in kept[:-KEPT_BEFORE_MIGRATIONS]:
        old.unlink(missing_ok=True)
    return target


def fault_in(path: Path) -> str:
    """What SQLite finds wrong with a database file, or nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            findings = [str(row[0]) for row in database.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return "" if findings == ["ok"] else "; ".join(findings)


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that has taken its place; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
