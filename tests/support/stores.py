"""A store in a temporary folder, and rows for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from server.job import State
from server.store import opening
from server.store.database import Database
from server.store.jobs import JobRow, OutputRow

NOW = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
DAY = "2026-11-24"


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


@contextmanager
def open_store(folder: Path, url: str | None = None, *, durable: bool = False, **options: Any) -> Iterator[Database]:
    """durable: as the server's own; a commit then waits for the disk, which takes longer than most tests."""
    pragmas = opening.PRAGMAS if durable else (*opening.PRAGMAS, "synchronous=OFF")
    with patch.object(opening, "PRAGMAS", pragmas):
        database = Database(url or url_of(folder), **options)
        database.start()
        try:
            yield database
        finally:
            database.close()


def job_row(job_id: str = "job_1", key_id: str = "anna", **changes: Any) -> JobRow:
    values: dict[str, Any] = {
        "id": job_id,
        "key_id": key_id,
        "type": "image",
        "model": "tiny-scenes",
        "state": State.QUEUED,
        "request": {"prompt": "a red circle\x00é"},
        "params": {"seed": 2**63 - 1},
        "warnings": [],
        "charged_day": DAY,
        "charged_kind": "images",
        "charged_units": 1,
        "attempt": 1,
        "created_at": NOW,
    }
    return JobRow(**values | changes)


def output_row(job_id: str = "job_1", index: int = 0, **changes: Any) -> OutputRow:
    values: dict[str, Any] = {
        "id": f"{job_id}-{index}",
        "job_id": job_id,
        "index": index,
        "mime_type": "image/png",
        "width": 64,
        "height": 64,
        "duration_s": None,
        "seed": 2**63 - 1,
        "n_bytes": 1234,
        "sha256": "ab" * 32,
        "file_name": f"{job_id}-{index}.png",
    }
    return OutputRow(**values | changes)
