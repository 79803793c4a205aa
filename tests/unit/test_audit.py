"""The ledger audit finds what it is for: each of these stores and replies is wrong in one way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, text, update

from server.job import State
from server.store import jobs, schema, usage
from tests.support.audit import audit_folder, audit_log, audit_replies
from tests.support.stores import DAY, NOW, job_row, open_store, output_row

PNG = b"a picture"
FILE = "0123456789abcdefghijkl.png"


def _store(folder: Path, corrupt: Callable[[Connection], object] | None = None) -> Path:
    """A data folder with a completed, a failed and a canceled job, and what `corrupt` does to it."""
    (folder / "outputs").mkdir()
    (folder / "unfinished").mkdir()
    (folder / "outputs" / FILE).write_bytes(PNG)
    output = output_row("job_1", n_bytes=len(PNG), sha256=hashlib.sha256(PNG).hexdigest(), file_name=FILE)
    error = {"code": "model_error", "message": "It broke.", "retryable": False}

    def write(conn: Connection) -> None:
        for number in (1, 2, 3):
            usage.charge(conn, "anna", DAY, "images", 1, None)
            jobs.insert_job(conn, job_row(f"job_{number}"))
        assert jobs.complete_job(conn, "job_1", 1, [output], None, NOW, None)
        assert jobs.fail_job(conn, "job_2", 1, error, NOW)
        assert jobs.cancel_job(conn, "job_3", NOW, refund=False)
        if corrupt is not None:
            corrupt(conn)

    with open_store(folder, f"sqlite:///{folder / 'agentname.db'}") as database:
        database.write_now(write)
    return folder


def test_a_store_in_order_passes(tmp_path: Path) -> None:
    assert audit_folder(_store(tmp_path), {"job_1": "anna", "job_2": None}) == []


@pytest.mark.parametrize(
    ("corrupt", "found"),
    [
        (lambda conn: conn.execute(text("PRAGMA foreign_keys=OFF")) and jobs.delete_job(conn, "job_1", "anna"), "L1"),
        (lambda conn: conn.execute(update(schema.jobs).values(key_id="ben")), "L1"),
        (lambda conn: jobs.insert_job(conn, job_row("job_9", charged_units=0)), "L2"),
        (lambda conn: conn.execute(update(schema.usage).values(used=schema.usage.c.used - 1)), "L3"),
        (lambda conn: conn.execute(delete(schema.refunds)), "L3"),
        (lambda conn: usage.refund(conn, "job_1"), "L3"),
        (lambda conn: conn.execute(update(schema.outputs).values(sha256="00" * 32)), "L4"),
        (lambda conn: conn.execute(update(schema.outputs).values(file_name="gone.png")), "L4"),
        (lambda conn: conn.execute(delete(schema.outputs)), "L4"),
        (lambda conn: conn.execute(update(schema.jobs).values(attempt=4)), "L5"),
        (lambda conn: conn.execute(update(schema.jobs).values(state=State.CANCELED)), "L6"),
        (
            lambda conn: conn.execute(
                insert(schema.job_events), {"key_id": "anna", "job_id": "job_1", "name": State.QUEUED}
            ),
            "L6",
        ),
        (
            lambda conn: conn.execute(
                insert(schema.open_chats), {"id": "chat_1", "key_id": "anna", "day": DAY, "units": 1}
            ),
            "L7",
        ),
    ],
    ids=["job lost", "another owner", "never ended", "refunded twice", "not refunded", "completed and refunded",
         "contents changed", "file gone", "no output", "too many attempts", "two ends", "went on after its end",
         "chat left open"],
)  # fmt: skip
def test_the_audit_catches_a_store_that_is_wrong(
    tmp_path: Path, corrupt: Callable[[Connection], object], found: str
) -> None:
    problems = audit_folder(_store(tmp_path, corrupt), {"job_1": "anna", "job_2": "anna"})

    assert any(problem.startswith(found) for problem in problems), problems


@pytest.mark.parametrize("name", ["outputs/orphan.png", "unfinished/half.png"])
def test_the_audit_catches_files_of_no_job(tmp_path: Path, name: str) -> None:
    folder = _store(tmp_path)
    (folder / name).write_bytes(PNG)
    assert [problem[:2] for problem in audit_folder(folder)] == ["L4"]
    assert audit_folder(folder, at_rest=False) == []


@pytest.mark.parametrize(
    ("path", "status", "body", "found"),
    [
        ("/api/generate", 400, b'{"error":"No such size.","code":400}', []),
        ("/v1/models", 404, b'{"error":{"message":"No."}}', []),
        ("/api/generate", 400, b'{"error":"No such size.","code":400,"input":"a secret"}', ["L8"]),
        ("/api/generate", 400, b"Bad Request", ["L8"]),
        ("/api/generate", 400, b'{"error":"No such size.","code":401}', ["L8"]),
        ("/api/generate", 500, b'{"error":"Internal error.","code":500}', ["L9"]),
    ],
)
def test_the_audit_reads_the_bodies_of_errors(path: str, status: int, body: bytes, found: list[str]) -> None:
    assert [problem[:2] for problem in audit_replies([(path, status, body)])] == found


def test_the_audit_finds_keys_and_prompts_in_a_log() -> None:
    log = '{"msg": "job queued", "prompt": "a house in \\u00c5s"}\nkey an_abcdef12_0123456789abcdef\n'
    assert len(audit_log(log, ["a house in Ås", "not there at all"])) == 2
    assert audit_log('{"msg": "job queued"}', ["a house in Ås"]) == []
