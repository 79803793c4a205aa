"""The store keeps the messages of conversations per key and in order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pipelines.interface import Message
from server.store import conversations, messages
from tests.support.stores import NOW, open_store


def test_a_conversation_is_read_back_unchanged_and_in_order(tmp_path: Path) -> None:
    first = [Message("user", "Hello\x00, {{7*7}} 🧑‍🚀"), Message("assistant", "' OR 1=1 --")]
    second = [Message("user", "And then?"), Message("assistant", "")]
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", first))
        database.write_now(lambda conn: messages.append(conn, "anna", "c2", [Message("user", "other")]))
        database.write_now(lambda conn: messages.append(conn, "bob", "c1", [Message("user", "foreign")]))
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", second))

        assert database.read_now(lambda conn: messages.history(conn, "anna", "c1")) == first + second
        assert database.read_now(lambda conn: messages.history(conn, "bob", "c2")) == []


def test_old_exchanges_are_deleted(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", [Message("user", "old")], NOW))
        new = [Message("user", "new")]
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", new, NOW + timedelta(days=1)))
        database.write_now(lambda conn: messages.forget_before(conn, NOW + timedelta(hours=1)))

        assert database.read_now(lambda conn: messages.history(conn, "anna", "c1")) == new


def test_a_conversation_without_messages_is_deleted(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", [Message("user", "old")], NOW))
        database.write_now(
            lambda conn: messages.append(conn, "anna", "c2", [Message("user", "new")], NOW + timedelta(days=1))
        )
        database.write_now(lambda conn: messages.forget_before(conn, NOW + timedelta(hours=1)))

        assert [row.id for row in database.read_now(lambda conn: conversations.page(conn, "anna", 9, None))[0]] == [
            "c2"
        ]
