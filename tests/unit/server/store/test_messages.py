"""The store keeps the messages of conversations per key and in order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert

from pipelines.chat_interface import Message, ToolCall
from server.store import conversations, messages, schema
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


def test_a_message_keeps_its_thinking_and_its_tool_calls(tmp_path: Path) -> None:
    said = [
        Message("user", "Is it raining?", name="ann"),
        Message("assistant", "", thinking="I should look.", tool_calls=(ToolCall("call_1", "weather", "{}"),)),
        Message("tool", "rain", tool_call_id="call_1"),
        Message("assistant", "It is.", thinking="It rains\x00."),
    ]
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: messages.append(conn, "anna", "c1", said))

        assert database.read_now(lambda conn: messages.history(conn, "anna", "c1")) == said


def test_a_message_of_an_older_version_has_no_thinking(tmp_path: Path) -> None:
    stored = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row = {"key_id": "anna", "conversation_id": "c1", "messages": stored, "created_at": NOW}
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: conn.execute(insert(schema.turns), row))

        said = database.read_now(lambda conn: messages.history(conn, "anna", "c1"))
    assert said == [Message("user", "Hi"), Message("assistant", "Hello")]


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
