"""Keeps the SQLite file where the next start looks for it, although somebody may remove it under the server.

SQLite goes on writing into a file that was removed, and all of that is gone with the process. Store writer thread.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from server.errors import Unavailable
from server.store import sqlite_copies

logger = logging.getLogger(__name__)

REPLACED = "The job store was replaced while the server ran. The server must be restarted."


class InPlace:
    """An open SQLite file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open = _opened(file)  # what is written again if the file is removed
        self._identity = sqlite_copies.identity(file)

    def put_back(self) -> bool:
        """Writes a file that was removed again; returns whether it did, so that connections to it must be opened anew.

        Raises `Unavailable` when another file has taken its place, `OSError` and `sqlite3.Error`.
        """
        found = sqlite_copies.identity(self._file)
        if found == self._identity:
            return False
        if found is not None:
            raise Unavailable(REPLACED, retry_after_s=60)
        logger.error("the job store was removed from its folder; it is written there again")
        for journal in sqlite_copies.JOURNALS:
            Path(f"{self._file}{journal}").unlink(missing_ok=True)
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sqlite_copies.copy(self._open, self._file)
        self._open.close()
        self._open, self._identity = _opened(self._file), sqlite_copies.identity(self._file)
        return True

    def close(self) -> None:
        self._open.close()


def _opened(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("SELECT count(*) FROM sqlite_master")  # SQLite opens a file at the first statement
    return connection
