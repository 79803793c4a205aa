"""`backup` while a server runs, and `restore` into the same or another data folder."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from server.process.data_folder import lock_of
from server.store import jobs
from server.store.database import Database
from tests.support.http.command_line import run, use_folder
from tests.support.stores import job_row, open_store


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return use_folder(monkeypatch, tmp_path / "data")


@contextmanager
def store(data_dir: Path) -> Iterator[Database]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with open_store(data_dir, f"sqlite:///{data_dir / 'agentname.db'}") as database:
        yield database


def ids(conn: Connection) -> list[str]:
    return list(conn.execute(text("SELECT id FROM jobs ORDER BY seq")).scalars())


def fill(data_dir: Path) -> None:
    for name in ("outputs", "inputs/unfinished"):
        (data_dir / name).mkdir(parents=True)
    (data_dir / "outputs" / "a.png").write_bytes(b"picture")
    (data_dir / "inputs" / "unfinished" / "b.png").write_bytes(b"half")
    (data_dir / "link-secret").write_bytes(bytes(32))


def test_a_backup_of_a_running_server_is_restored_elsewhere(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(data_dir) as database:
        fill(data_dir)
        database.write_now(lambda conn: jobs.insert_job(conn, job_row("job_1")))
        made = run("backup", "kept.tar")
        database.write_now(lambda conn: jobs.insert_job(conn, job_row("job_2")))
    other = use_folder(monkeypatch, tmp_path / "other")
    restored = run("restore", "kept.tar")

    assert (made.exit_code, restored.exit_code) == (0, 0), made.output + restored.output
    assert (tmp_path / "kept.tar").stat().st_mode & 0o077 == 0
    with store(other) as database:
        assert database.read_now(ids) == ["job_1"]
    assert (other / "outputs" / "a.png").read_bytes() == b"picture"
    assert (other / "link-secret").read_bytes() == bytes(32)
    assert not (other / "inputs" / "unfinished").exists()


def test_what_a_restore_replaces_is_kept_beside_it(data_dir: Path) -> None:
    with store(data_dir) as database:
        fill(data_dir)
        run("backup", "kept.tar")
        database.write_now(lambda conn: jobs.insert_job(conn, job_row("job_1")))
    assert run("restore", "kept.tar").exit_code == 0
    with store(data_dir) as database:
        assert database.read_now(ids) == []
    with open_store(data_dir, f"sqlite:///{data_dir / 'agentname.db.before-restore'}") as database:
        assert database.read_now(ids) == ["job_1"]
    assert (data_dir / "outputs.before-restore" / "a.png").exists()


def test_nothing_is_restored_under_a_running_server(data_dir: Path) -> None:
    with store(data_dir):
        fill(data_dir)
        run("backup", "kept.tar")
        lock = lock_of(data_dir)
        refused = run("restore", "kept.tar")
        os.close(lock)

    assert refused.exit_code == 1
    assert "Another server uses" in refused.stderr
    assert not (data_dir / "outputs.before-restore").exists()


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_a_damaged_backup_changes_nothing(data_dir: Path, content: bytes) -> None:
    with store(data_dir):
        fill(data_dir)
    Path("kept.tar").write_bytes(content)
    assert run("restore", "kept.tar").exit_code == 1
    assert (data_dir / "outputs" / "a.png").exists()


def test_a_backup_whose_database_is_damaged_changes_nothing(data_dir: Path) -> None:
    with store(data_dir):
        fill(data_dir)
    Path("agentname.db").write_bytes(os.urandom(8192))
    with tarfile.open("kept.tar", "w") as archive:
        archive.add("agentname.db")
    refused = run("restore", "kept.tar")
    assert "no sound backup" in refused.stderr
    assert (data_dir / "outputs" / "a.png").exists()


def test_a_backup_that_reaches_out_of_its_folder_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with store(data_dir):
        pass
    with tarfile.open("kept.tar", "w") as archive:
        archive.add(data_dir / "agentname.db", "../escaped")
    assert run("restore", "kept.tar").exit_code == 1
    assert not (tmp_path.parent / "escaped").exists()


def test_a_backup_never_takes_the_place_of_a_file(data_dir: Path) -> None:
    with store(data_dir):
        pass
    Path("kept.tar").write_bytes(b"mine")
    assert run("backup", "kept.tar").exit_code == 1
    assert Path("kept.tar").read_bytes() == b"mine"
