"""The store keeps responses per key, and reads a chain of them in one query, on SQLite and on Postgres."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from server.store import responses
from server.store.database import Database
from server.store.responses import Link, ResponseRow
from tests.support.stores import NOW


def row(name: str, previous: str | None = None, at: datetime = NOW) -> ResponseRow:
    return ResponseRow(
        id=name,
        previous_id=previous,
        items=[{"text": f"{name}\x00é"}],
        response={"id": name, "output": []},
        n_bytes=7,
        created_at=at,
    )


def fill(conn: Connection) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b"), ("d", "gone")):
        responses.add(conn, "anna", row(name, previous))
    responses.add(conn, "bob", row("b", "a"))


def check(conn: Connection) -> None:
    assert responses.get(conn, "anna", ["a"]) == [row("a")]
    assert {found.id for found in responses.get(conn, "anna", ["a", "c", "x"])} == {"a", "c"}
    assert responses.get(conn, "eve", ["a"]) == []
    assert responses.n_bytes(conn, "anna", ["a", "c", "x"]) == 14
    assert responses.n_bytes(conn, "eve", ["a"]) == 0
    assert responses.chain(conn, "anna", "c", 9) == [Link("c", "b", 7), Link("b", "a", 7), Link("a", None, 7)]
    assert responses.chain(conn, "anna", "c", 2) == [Link("c", "b", 7), Link("b", "a", 7)]
    assert responses.chain(conn, "anna", "d", 9) == [Link("d", "gone", 7)]
    assert responses.chain(conn, "bob", "b", 9) == [Link("b", "a", 7)]  # never another key's
    assert responses.chain(conn, "eve", "c", 9) == []


def test_responses_and_their_chains_are_read_back_per_key(database: Database) -> None:
    database.write_now(fill)
    database.read_now(check)


def test_responses_are_deleted_by_their_key_and_by_age(database: Database) -> None:
    database.write_now(fill)
    database.write_now(lambda conn: responses.add(conn, "anna", row("new", at=NOW + timedelta(days=1))))

    assert not database.write_now(lambda conn: responses.forget(conn, "eve", "a"))
    assert database.write_now(lambda conn: responses.forget(conn, "anna", "a"))
    assert not database.write_now(lambda conn: responses.forget(conn, "anna", "a"))
    database.write_now(lambda conn: responses.forget_before(conn, NOW + timedelta(hours=1)))
    left = database.read_now(lambda conn: responses.get(conn, "anna", ["a", "b", "new"]))
    assert [found.id for found in left] == ["new"]
