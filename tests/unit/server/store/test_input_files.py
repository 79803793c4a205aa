"""The store keeps files per key, and none is forgotten while an unfinished job uses it, on SQLite and on Postgres."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from server.store import input_files as store
from server.store import jobs
from server.store.database import Database
from server.store.input_files import InputFileRow
from tests.support.stores import NOW, job_row

LATER = NOW + timedelta(hours=1)
AFTERWARDS = LATER + timedelta(seconds=1)


def row(name: str, key_id: str = "anna", *, listed: bool = True) -> InputFileRow:
    return InputFileRow(
        id=f"file_{name}",
        key_id=key_id,
        sha256=f"hash of {name}",
        mime_type="image/jpeg",
        n_bytes=10,
        kept_bytes=2**33,
        file_name=f"{name}.png",
        width=6,
        height=4,
        num_frames=1,
        fps=None,
        warnings=["a sentence"],
        listed=listed,
        created_at=NOW,
        expires_at=LATER,
    )


def fill(conn: Connection) -> None:
    for added in (row("a"), row("b", listed=False), row("c"), row("x", "bob")):
        store.add(conn, added)
    jobs.insert_job(conn, job_row("job_1"))


def test_files_are_read_back_by_their_key_alone(database: Database) -> None:
    database.write_now(fill)

    def check(conn: Connection) -> None:
        assert store.get(conn, "anna", ["file_a", "file_b", "file_x"], NOW) == {
            "file_a": row("a"),
            "file_b": row("b", listed=False),
        }
        assert store.get(conn, "anna", ["file_a"], LATER) == {}
        assert store.same(conn, "anna", "hash of a") == row("a")
        assert store.same(conn, "bob", "hash of a") is None
        assert (store.used_bytes(conn, "anna"), store.used_bytes(conn, "eve")) == (3 * 2**33, 0)
        first, cursor = store.page(conn, "anna", NOW, 1, None)
        second, end = store.page(conn, "anna", NOW, 1, cursor)
        assert (first, second, end) == ([row("c")], [row("a")], None)
        assert store.cursor_after(conn, "anna", "file_c", NOW) == cursor
        assert store.cursor_after(conn, "bob", "file_c", NOW) is None
        assert store.file_names(conn) == {"a.png", "b.png", "c.png", "x.png"}

    database.read_now(check)


def test_a_key_has_each_file_once(database: Database) -> None:
    database.write_now(fill)
    with pytest.raises(IntegrityError):
        database.write_now(lambda conn: store.add(conn, row("a")))

    renewed = database.write_now(lambda conn: store.renew(conn, "anna", "hash of b", True, NOW, AFTERWARDS))
    shorter = database.write_now(lambda conn: store.renew(conn, "anna", "hash of b", False, NOW, NOW))

    assert renewed is not None
    assert (renewed.listed, renewed.expires_at) == (True, AFTERWARDS)
    assert shorter == renewed
    assert database.write_now(lambda conn: store.renew(conn, "bob", "hash of b", True, NOW, LATER)) is None


def test_a_file_that_a_job_uses_is_forgotten_only_once_the_job_has_ended(database: Database) -> None:
    database.write_now(fill)
    assert database.write_now(lambda conn: store.refer(conn, "job_1", {"file_a", "file_b"}))
    assert not database.write_now(lambda conn: store.refer(conn, "job_1", {"file_c", "file_gone"}))
    assert database.write_now(lambda conn: store.refer(conn, "job_1", set()))

    def forget(conn: Connection) -> list[str]:
        return sorted(store.forget_expired(conn, AFTERWARDS))

    assert database.write_now(lambda conn: store.forget_expired(conn, NOW)) == []
    assert database.write_now(forget) == ["c.png", "x.png"]
    database.write_now(lambda conn: jobs.start_job(conn, "job_1", 1, NOW))
    assert database.write_now(forget) == []
    database.write_now(lambda conn: jobs.fail_job(conn, "job_1", 1, {"code": "x"}, NOW))
    assert database.write_now(forget) == ["a.png", "b.png"]


def test_a_file_that_is_taken_away_is_unknown_and_stays_for_its_jobs(database: Database) -> None:
    database.write_now(fill)
    database.write_now(lambda conn: store.refer(conn, "job_1", {"file_a"}))

    def take_away(key_id: str, file_id: str) -> str | None:
        return database.write_now(lambda conn: store.take_away(conn, key_id, file_id, NOW))

    assert take_away("anna", "file_x") is take_away("anna", "file_b") is None  # another key's; not a listed one
    assert take_away("anna", "file_a") == "file_a"
    assert take_away("anna", "file_a") is None
    assert database.read_now(lambda conn: store.get(conn, "anna", ["file_a"], NOW)) == {}
    assert database.write_now(lambda conn: store.forget_expired(conn, NOW)) == []
    assert database.write_now(lambda conn: jobs.cancel_job(conn, "job_1", NOW, refund=False))
    assert database.write_now(lambda conn: store.forget_expired(conn, NOW)) == ["a.png"]


def test_a_recovered_job_still_uses_its_file_and_a_deleted_job_none(database: Database) -> None:
    database.write_now(fill)
    database.write_now(lambda conn: store.refer(conn, "job_1", {"file_a"}))
    database.write_now(lambda conn: jobs.start_job(conn, "job_1", 1, NOW))
    database.write_now(lambda conn: jobs.recover_jobs(conn, NOW))

    assert "a.png" not in database.write_now(lambda conn: store.forget_expired(conn, AFTERWARDS))
    database.write_now(lambda conn: jobs.cancel_job(conn, "job_1", NOW, refund=False))
    database.write_now(lambda conn: jobs.delete_job(conn, "job_1", "anna"))
    assert database.write_now(lambda conn: store.forget_expired(conn, AFTERWARDS)) == ["a.png"]
