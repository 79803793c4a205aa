"""A process that upgrades a store is killed: the store is as before, its copy whole, and the next start upgrades it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from server.store import migrations
from server.store.sqlite_copies import fault_in
from tests.support.paths import ROOT
from tests.support.stores import open_store, url_of

REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory.from_config(migrations._config()).walk_revisions()))
]
ROWS = 3  # of each table
PARTS = 3  # each upgrade is killed at the statements between them

# Opens stores, each in a process of its own that is forked from this one, and tells how each ended. A process is killed
# at a fault point, or before its nth statement; with 0 it tells how many statements there are.
OPENING = """
import os, signal, sys
from sqlalchemy import Engine, event
from pathlib import Path
from tests.support import stores

def open_store(folder, kill_at):
    n = 0
    def count(*_):
        nonlocal n
        n += 1
        if n == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(Engine, "before_cursor_execute", count)
    with stores.open_store(Path(folder)):
        print(n, flush=True)
    os._exit(0)

for line in sys.stdin:
    folder, kill_at = line.split()
    child = os.fork()
    if not child:
        open_store(folder, int(kill_at))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Opener:
    def __init__(self, faults: Path) -> None:
        self._faults = faults
        self._process = subprocess.Popen(
            [sys.executable, "-c", OPENING],
            cwd=ROOT,
            env={**os.environ, "AGENTNAME_TESTING": "1", "AGENTNAME_FAULTS": str(faults)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def n_statements(self, folder: Path) -> int:
        self._send(folder, 0)
        n, exit_code = int(self._line()), int(self._line())
        assert exit_code == 0
        return n

    def kill_at_statement(self, folder: Path, n: int) -> None:
        self._send(folder, n)
        assert int(self._line()) == -signal.SIGKILL

    def kill_at_point(self, folder: Path, point: str, about: str) -> None:
        self._faults.write_text(json.dumps([{"at": point, "do": "kill", "about": about}]))
        self._faults.with_suffix(".fired").unlink(missing_ok=True)
        self._send(folder, -1)
        assert int(self._line()) == -signal.SIGKILL
        self._faults.unlink()

    def close(self) -> None:
        self._process.communicate()

    def _send(self, folder: Path, kill_at: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder} {kill_at}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("faults") / "faults.json")
    yield made
    made.close()


def make_old_store(folder: Path, wanted: str) -> None:
    """Each table gets its rows at the revision that adds it, and they live through the revisions that follow."""
    folder.mkdir()
    engine = sa.create_engine(url_of(folder))
    filled: set[str] = set()
    for revision in REVISIONS[: REVISIONS.index(wanted) + 1]:
        with engine.begin() as conn:
            command.upgrade(migrations._config(conn), revision)
            tables = sa.MetaData()
            tables.reflect(conn)
            for table in tables.sorted_tables:
                if table.name not in {*filled, "alembic_version"} and not n_rows_of(conn, table):
                    conn.execute(table.insert(), [row_of(table, n) for n in range(1, ROWS + 1)])
                filled.add(table.name)
    engine.dispose()


def n_rows_of(conn: sa.Connection, table: sa.Table) -> int:
    return int(conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def row_of(table: sa.Table, n: int) -> dict[str, Any]:
    return {column.name: value_of(column, n) for column in table.columns}


def value_of(column: sa.Column[Any], n: int) -> Any:
    if column.name == "state":
        return ("queued", "completed", "failed")[n % 3]
    if column.name.endswith("job_id") or (column.name, column.table.name) == ("id", "jobs"):
        return f"job_{n}"
    match column.type:
        case sa.JSON():
            return [{"role": "user", "content": f"text {n}"}]
        case sa.DateTime():
            return datetime(2026, 11, 24, n, tzinfo=UTC)
        case sa.LargeBinary():
            return bytes([n])
        case sa.Boolean():
            return n % 2 == 0
        case sa.Integer() | sa.Float() | sa.Numeric():
            return n
    return f"{column.name} {n}"


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table."""
    with closing(sqlite3.connect(path)) as store:
        names = [row[0] for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: store.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def check_nothing_is_lost(folder: Path, revision: str, before: dict[str, list[tuple[Any, ...]]]) -> None:
    path, copy = folder / "store.db", folder / f"store.db.before-{revision}"
    assert fault_in(path) == ""
    assert contents(path) == before, "what was not committed is not there"
    if copy.exists():
        assert (fault_in(copy), contents(copy)) == ("", before)

    with open_store(folder):  # the restart
        pass
    after = contents(path)
    assert after["alembic_version"] == [(migrations.head(),)]
    for table, rows in before.items():
        if table not in ("alembic_version", "sqlite_sequence"):
            assert len(after[table]) == len(rows), table
    assert (fault_in(copy), contents(copy)) == ("", before)
    assert {each.name for each in folder.iterdir()} == {"store.db", copy.name}


@pytest.mark.slow
@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_upgrade_that_is_killed_is_completed_by_the_next_start(
    tmp_path: Path, opener: Opener, revision: str
) -> None:
    make_old_store(tmp_path / "old", revision)
    before = contents(tmp_path / "old/store.db")
    assert all(before.values()), "each table has rows"
    number = 0

    def copy_of_old() -> Path:
        nonlocal number
        number += 1
        folder = tmp_path / f"store{number}"
        folder.mkdir()
        (folder / "store.db").write_bytes((tmp_path / "old/store.db").read_bytes())
        return folder

    n_statements = opener.n_statements(copy_of_old())
    for part in range(1, PARTS):
        folder = copy_of_old()
        opener.kill_at_statement(folder, n_statements * part // PARTS)
        check_nothing_is_lost(folder, revision, before)
    points = {("migrate", REVISIONS[REVISIONS.index(revision) + 1]), ("migrate", migrations.head())}
    if revision == REVISIONS[0]:
        points |= {("copy", f"store.db.before-{revision}")}
    for point, about in sorted(points):
        folder = copy_of_old()
        opener.kill_at_point(folder, point, about)
        check_nothing_is_lost(folder, revision, before)
