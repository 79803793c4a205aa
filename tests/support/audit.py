"""The ledger audit: whether a data folder's rows, charges and files agree, and whether nothing was lost or doubled.

Each function returns what is wrong, one sentence each; an empty list is a clean audit. The numbers L1 to L10 are those
of the reliability plan. The store is opened for reading only, beside a server that may be running.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.http.error_body import OURS, dialect_of
from server.store.jobs import MOST_ATTEMPTS

ENDS = ("completed", "failed", "canceled")
SHORTEST_SECRET = 12  # characters: shorter texts appear in a log by chance
API_KEY = re.compile(r"an_[0-9A-Za-z]{6,}_[0-9A-Za-z]{6,}")


def audit_folder(
    data_dir: Path, accepted: Mapping[str, str | None] | None = None, *, at_rest: bool = True
) -> list[str]:
    """accepted: id of each job that a client was told → the id of its key, None if unknown. at_rest: nothing is under
    way in the folder, so that every job must have ended and every file belong to one.
    """
    with _rows(data_dir / "agentname.db") as store:
        problems = [*_jobs(store, accepted or {}, at_rest=at_rest), *_charges(store, at_rest=at_rest)]
        problems += [*_events(store), *_files(store, data_dir, at_rest=at_rest)]
    return problems


def audit_replies(replies: Iterable[tuple[str, int, bytes]], expected_500: Collection[str] = ()) -> list[str]:
    """L8 and L9. replies: path, status and body of what clients got. expected_500: paths that a test made fail."""
    problems = []
    for path, status, body in replies:
        bare = path.partition("?")[0]
        if status == 500 and bare not in expected_500:
            problems.append(f"L9 {bare} answered 500")
        if status >= 400 and dialect_of(bare) is OURS and (fault := _wrong_error(status, body)):
            problems.append(f"L8 the error of {bare} {fault}")
    return problems


def audit_log(text: str, secrets: Iterable[str]) -> list[str]:
    """L10. secrets: keys, and prompts that clients sent."""
    problems = [f"L10 the log has an API key: {found[:8]}…" for found in set(API_KEY.findall(text))]
    sent = {each for each in secrets if len(each) >= SHORTEST_SECRET}
    sent = {each for each in sent if each in text or json.dumps(each)[1:-1] in text}
    problems += [f"L10 the log has what a client sent: {each[:30]!r}" for each in sorted(sent)]
    return problems


class _Rows:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __call__(self, statement: str) -> list[sqlite3.Row]:
        return self._connection.execute(statement).fetchall()


@contextmanager
def _rows(path: Path) -> Iterator[_Rows]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one moment for all that is read
        yield _Rows(connection)


def _jobs(store: _Rows, accepted: Mapping[str, str | None], *, at_rest: bool) -> Iterator[str]:
    """L1, L2, L5: a row and an owner for each accepted job, an end for each row, attempts within the bound."""
    rows = {row["id"]: row for row in store("SELECT id, key_id, state, attempt FROM jobs")}
    for job, key_id in accepted.items():
        if job not in rows:
            yield f"L1 {job} was accepted and is not in the store"
        elif key_id is not None and rows[job]["key_id"] != key_id:
            yield f"L1 {job} belongs to another key than the one that sent it"
    for job, row in rows.items():
        if at_rest and row["state"] not in ENDS:
            yield f"L2 {job} is still {row['state']}"
        if not 1 <= row["attempt"] <= MOST_ATTEMPTS:
            yield f"L5 {job} is on attempt {row['attempt']}"
    claims = store("SELECT job_id, count(*) AS n FROM idempotency_keys GROUP BY job_id HAVING n > 1")
    yield from (f"L1 {row['job_id']} was claimed by {row['n']} idempotency keys" for row in claims)


def _charges(store: _Rows, *, at_rest: bool) -> Iterator[str]:
    """L3: what a key has used is what it was charged less what it got back, on each day and of each kind."""
    jobs = {row["id"]: row for row in store("SELECT * FROM jobs")}
    charged: Counter[tuple[str, str, str]] = Counter()
    for row in jobs.values():
        if row["charged_day"] is not None:
            charged[row["key_id"], row["charged_day"], row["charged_kind"]] += row["charged_units"]
    refunded: Counter[tuple[str, str, str]] = Counter()
    for row in store("SELECT * FROM refunds"):
        book = row["key_id"], row["day"], row["kind"]
        refunded[book] += row["units"]
        job = jobs.get(row["id"])
        if job is not None and job["state"] == "completed":
            yield f"L3 {row['id']} is completed and was refunded"
        if job is not None and (*book, row["units"]) != (
            *(job[name] for name in ("key_id", "charged_day", "charged_kind", "charged_units")),
        ):
            yield f"L3 the refund of {row['id']} is not what it was charged"
    paid_back = {row["id"] for row in store("SELECT id FROM refunds")}
    for row in jobs.values():
        if row["state"] == "failed" and row["charged_units"] and row["id"] not in paid_back:
            yield f"L3 {row['id']} failed and was not refunded"
    used = {(row["key_id"], row["day"], row["kind"]): row["used"] for row in store("SELECT * FROM usage")}
    yield from (f"L3 {book} has used {n}" for book, n in used.items() if n < 0)
    for book in {*charged, *(book for book in used if book[2] != "chats")}:
        due = charged[book] - refunded[book]
        if used.get(book, 0) != due and (used.get(book, 0) < due or not _some_were_deleted(store)):
            yield f"L3 {book} has used {used.get(book, 0)}, but was charged {charged[book]} less {refunded[book]}"
    if at_rest and (n := store("SELECT count(*) FROM open_chats")[0][0]):
        yield f"L7 {n} charges of chats are still open"


def _some_were_deleted(store: _Rows) -> bool:
    """Whether jobs were deleted, whose charges stay. The numbers of their events are never given again."""
    last = store("SELECT seq FROM sqlite_sequence WHERE name = 'job_events'")
    return bool(last) and last[0][0] != store("SELECT count(*) FROM job_events")[0][0]


def _events(store: _Rows) -> Iterator[str]:
    """L6: a job that has ended stays so, and says it once."""
    told: dict[str, list[str]] = defaultdict(list)
    for row in store("SELECT job_id, name FROM job_events ORDER BY id"):
        told[row["job_id"]].append(row["name"])
    for row in store("SELECT id, state FROM jobs"):
        names = told[row["id"]]
        ends = [name for name in names if name in ENDS]
        if not names or names[0] != "queued":
            yield f"L6 the events of {row['id']} do not begin with queued"
        if row["state"] in ENDS and ends != [row["state"]]:
            yield f"L6 {row['id']} is {row['state']}, its events say {ends}"
        if ends and names[-1] not in ENDS:
            yield f"L6 {row['id']} went on after it had ended"


def _files(store: _Rows, data_dir: Path, *, at_rest: bool) -> Iterator[str]:
    """L4: a completed job has its files as they were stored, and there are no other files."""
    states = {row["id"]: row for row in store("SELECT id, state, request, expires_at FROM jobs")}
    outputs = store("SELECT job_id, file_name, n_bytes, sha256 FROM outputs")
    owners = {row["job_id"] for row in outputs}
    now = datetime.now(UTC).replace(tzinfo=None)
    for job, row in states.items():
        expired = row["expires_at"] is not None and datetime.fromisoformat(row["expires_at"]) < now
        if row["state"] == "completed" and job not in owners and not expired:
            yield f"L4 {job} is completed and has no output"
    for row in outputs:
        if states[row["job_id"]]["state"] != "completed":
            yield f"L4 {row['job_id']} has an output and is {states[row['job_id']]['state']}"
        path = data_dir / "outputs" / row["file_name"]
        if not path.is_file():
            yield f"L4 {row['file_name']} of {row['job_id']} does not exist"
        elif path.stat().st_size != row["n_bytes"]:
            yield f"L4 {row['file_name']} has not the size that was stored"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            yield f"L4 {row['file_name']} has not the contents that were stored"
    if at_rest:
        known = {row["file_name"] for row in outputs}
        inputs = {row["file_name"] for row in store("SELECT file_name FROM input_files")}
        yield from (f"L4 {name} in outputs belongs to no job" for name in _names(data_dir / "outputs") - known)
        yield from (f"L4 {name} in inputs belongs to nobody" for name in _names(data_dir / "inputs") - inputs)
        for folder in (data_dir / "unfinished", data_dir / "inputs" / "unfinished"):
            yield from (f"L4 {name} is unfinished" for name in _names(folder))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.is_dir()} if folder.is_dir() else set()


def _wrong_error(status: int, body: bytes) -> str:
    try:
        error: Any = json.loads(body)
    except ValueError:
        return f"is no JSON: {body[:60]!r}"
    if not isinstance(error, dict) or set(error) != {"error", "code"}:
        return f"has other fields than error and code: {body[:80]!r}"
    if error["code"] != status or not isinstance(error["error"], str) or not error["error"]:
        return f"does not tell its status {status}: {body[:80]!r}"
    return ""
