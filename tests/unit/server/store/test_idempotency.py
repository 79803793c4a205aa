"""An Idempotency-Key identifies one request of one API key for 24 hours."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete

from server.errors import Conflict
from server.store import idempotency, jobs, schema
from server.store.database import Database
from tests.support.stores import NOW, job_row, open_store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_store(tmp_path) as opened:
        yield opened


def claim(database: Database, job_id: str, fingerprint: str = "body", key_id: str = "anna", at: datetime = NOW):
    """Accepts the request as the server does: with its job, unless it is a repeated one."""

    def accept(conn: Connection) -> str | None:
        earlier = idempotency.claim(conn, key_id, "retry-1", fingerprint, job_id, at)
        if earlier is None:
            jobs.insert_job(conn, job_row(job_id))
        return earlier

    return database.write_now(accept)


def test_a_repeated_request_returns_the_first_job(database: Database) -> None:
    assert claim(database, "job_1") is None
    assert claim(database, "job_2") == "job_1"
    assert claim(database, "job_3") == "job_1"


def test_another_request_under_the_same_key_conflicts(database: Database) -> None:
    claim(database, "job_1")

    with pytest.raises(Conflict):
        claim(database, "job_2", fingerprint="other body")


def test_a_repeated_request_whose_job_was_deleted_conflicts(database: Database) -> None:
    claim(database, "job_1")
    database.write_now(lambda conn: conn.execute(delete(schema.jobs)))

    with pytest.raises(Conflict, match="deleted"):
        claim(database, "job_2")


def test_two_api_keys_can_use_the_same_idempotency_key(database: Database) -> None:
    assert claim(database, "job_1") is None
    assert claim(database, "job_2", key_id="bob") is None


def test_an_idempotency_key_can_be_used_again_after_a_day(database: Database) -> None:
    claim(database, "job_1")

    assert claim(database, "job_2", at=NOW + timedelta(hours=24, seconds=-1)) == "job_1"
    assert claim(database, "job_3", fingerprint="other body", at=NOW + timedelta(hours=24)) is None
    assert claim(database, "job_4", fingerprint="other body", at=NOW + timedelta(hours=25)) == "job_3"


def test_the_claim_of_a_refused_request_is_rolled_back_with_it(database: Database) -> None:
    def accept(conn) -> None:
        idempotency.claim(conn, "anna", "retry-1", "body", "job_1", NOW)
        raise ValueError("quota used up")

    with pytest.raises(ValueError, match="quota"):
        database.write_now(accept)

    assert claim(database, "job_2") is None


def test_only_claims_older_than_a_day_are_deleted(database: Database) -> None:
    claim(database, "job_1")
    database.write_now(lambda conn: idempotency.forget_before(conn, NOW + timedelta(hours=23)))
    assert claim(database, "job_2") == "job_1"

    database.write_now(lambda conn: idempotency.forget_before(conn, NOW + timedelta(hours=24)))
    assert claim(database, "job_3") is None
