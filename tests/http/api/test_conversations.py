"""/api/conversations: the conversations that POST /api/chat stores are listed, read, renamed and deleted per key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import Message
from server.store import conversations as store
from server.store import messages, migrations, schema
from tests.support.http.asgi import start_post
from tests.support.http.chats import messages_of, next_chat
from tests.support.http.front import Front, front
from tests.support.http.thinking import REPLY, THOUGHT, thinking
from tests.support.stores import NOW, open_store

pytestmark = pytest.mark.anyio


async def talk(f: Front, message: str, key: str = "enterprise", **more: Any) -> str:
    reply = await f.post("/api/chat", {"message": message, **more}, key)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["conversationId"])


async def patch(f: Front, path: str, body: Any, key: str = "enterprise") -> Any:
    return await f.client.patch(path, json=body, headers=f.auth(key))


async def test_the_most_recent_conversation_is_first_and_titled_by_its_first_words(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = await talk(f, "  I am\n Ann. " + "x" * 200)
        f.clock.forward(minutes=1)
        second = await talk(f, " ", system="Be brief.")
        f.clock.forward(minutes=1)
        await talk(f, "Who am I?", conversationId=first)
        await talk(f, "Not yours", "other")
        listed = (await f.get("/api/conversations")).json()

    assert [conversation["conversationId"] for conversation in listed["conversations"]] == [first, second]
    assert listed["nextCursor"] is None
    assert listed["conversations"][0] == {
        "conversationId": first,
        "title": "I am Ann. " + "x" * 70,
        "model": "talker",
        "system": None,
        "createdAt": "2026-11-24T09:00:00.000Z",
        "updatedAt": "2026-11-24T09:02:00.000Z",
    }
    assert (listed["conversations"][1]["title"], listed["conversations"][1]["system"]) == ("Untitled", "Be brief.")


async def test_conversations_are_listed_in_pages(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        ids = [await talk(f, f"{n}") for n in range(5)]
        listed: list[str] = []
        cursor = ""
        while True:
            page = (await f.get(f"/api/conversations?limit=2{cursor}")).json()
            listed += [conversation["conversationId"] for conversation in page["conversations"]]
            if page["nextCursor"] is None:
                break
            cursor = f"&cursor={page['nextCursor']}"

    assert listed == ids[::-1]


async def test_messages_are_read_back_in_order(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = await talk(f, "I am Ann.")
        f.clock.forward(seconds=30)
        await talk(f, "Who am I?", conversationId=conversation)
        whole = (await f.get(f"/api/conversations/{conversation}")).json()

    assert [(message["role"], message["content"], message["timestamp"][14:19]) for message in whole["messages"]] == [
        ("user", "I am Ann.", "00:00"),
        ("assistant", "You said: I am Ann.", "00:00"),
        ("user", "Who am I?", "00:30"),
        ("assistant", "You said: Who am I?", "00:30"),
    ]


async def test_a_reply_is_read_back_with_its_thinking(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        with thinking(f.engine):
            conversation = await talk(f, "Hi")
        await talk(f, "And?", conversationId=conversation)
        messages = (await f.get(f"/api/conversations/{conversation}")).json()["messages"]

    assert (messages[1]["content"], messages[1]["thinking"]) == (REPLY, THOUGHT)
    assert ["thinking" in message for message in messages] == [False, True, False, False]


async def test_a_new_title_stays_when_the_conversation_continues(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = await talk(f, "I am Ann.")
        renamed = await patch(f, f"/api/conversations/{conversation}", {"title": " Ann's "})
        await talk(f, "Who am I?", conversationId=conversation)
        (listed,) = (await f.get("/api/conversations")).json()["conversations"]

    assert (renamed.status_code, renamed.json()["title"], listed["title"]) == (200, "Ann's", "Ann's")


@pytest.mark.parametrize("body", [{}, {"title": ""}, {"title": "  "}, {"title": "a\nb"}, {"title": 1}, {"name": "x"}])
async def test_an_invalid_title_is_a_400(tmp_path: Path, body: object) -> None:
    async with front(tmp_path) as f:
        conversation = await talk(f, "Hi")

        assert (await patch(f, f"/api/conversations/{conversation}", body)).status_code == 400


async def test_a_deleted_conversation_is_gone_and_the_model_gets_none_of_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = await talk(f, "I am Ann.")
        deleted = await f.delete(f"/api/conversations/{conversation}")
        again = await f.delete(f"/api/conversations/{conversation}")
        listed = (await f.get("/api/conversations")).json()["conversations"]
        f.engine.jobs.clear()
        await talk(f, "Who am I?", conversationId=conversation)

        assert messages_of(f.engine.jobs.popitem()[1]) == [("user", "Who am I?")]
    assert deleted.json() == {"conversationId": conversation, "deleted": True}
    assert (again.status_code, listed) == (404, [])


@pytest.mark.parametrize("conversation", ["conv_none", "a" * 65, "a%0A", "é"])
async def test_an_unknown_and_a_foreign_conversation_give_the_same_404(tmp_path: Path, conversation: str) -> None:
    async with front(tmp_path) as f:
        theirs = await talk(f, "Hi", "other")
        replies = [
            reply
            for name in (conversation, theirs)
            for reply in (
                await f.get(f"/api/conversations/{name}"),
                await patch(f, f"/api/conversations/{name}", {"title": "mine"}),
                await f.delete(f"/api/conversations/{name}"),
            )
        ]
        left = (await f.get(f"/api/conversations/{theirs}", "other")).json()["title"]

    assert {(reply.status_code, reply.text) for reply in replies} == {
        (404, '{"error":"There is no such conversation.","code":404}')
    }
    assert left == "Hi"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=zz", "status=all"])
async def test_an_invalid_query_is_a_400(tmp_path: Path, query: str) -> None:
    async with front(tmp_path) as f:
        assert (await f.get(f"/api/conversations?{query}")).status_code == 400


async def test_the_received_part_of_a_canceled_reply_is_stored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        disconnected = asyncio.Event()
        sent = start_post(
            f, "/api/chat", {"message": "Tell me", "stream": True, "conversationId": "mine"}, disconnected
        )
        job = await next_chat(f)
        f.engine.start_job(job.id)
        f.engine.say(job.id, "Once upon")
        f.engine.say(job.id, " a time")
        await asyncio.sleep(0)
        disconnected.set()
        await sent
        await f.settle()
        whole = (await f.get("/api/conversations/mine")).json()

    assert f.engine.canceled == [job.id]
    assert whole["messages"][0]["content"] == "Tell me"
    assert "Once upon a time".startswith(whole["messages"][1]["content"])


async def test_a_reply_of_which_nothing_was_received_is_not_stored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        for stream in (False, True):
            disconnected = asyncio.Event()
            sent = start_post(
                f, "/api/chat", {"message": "Tell me", "stream": stream, "conversationId": "mine"}, disconnected
            )
            job = await next_chat(f)
            f.engine.start_job(job.id)
            if not stream:
                f.engine.say(job.id, "Once")
            disconnected.set()
            await sent
        await f.settle()

        assert (await f.get("/api/conversations/mine")).status_code == 404


@pytest.mark.parametrize("pieces", [["They", " greet"], ["They", " greet", "Hello", " there"]])
async def test_thinking_is_stored_only_with_a_reply_that_was_received(tmp_path: Path, pieces: list[str]) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        disconnected = asyncio.Event()
        sent = start_post(f, "/api/chat", {"message": "Hi", "stream": True, "conversationId": "mine"}, disconnected)
        job = await next_chat(f)
        f.engine.start_job(job.id)
        for index, piece in enumerate(pieces):
            f.engine.say(job.id, piece, "thinking" if index < 2 else "content")
        await asyncio.sleep(0)
        disconnected.set()
        await sent
        await f.settle()
        found = await f.get("/api/conversations/mine")

    if len(pieces) == 2:
        assert found.status_code == 404
    else:
        reply = found.json()["messages"][1]
        assert reply["thinking"] == "They greet"
        assert "Hello there".startswith(reply["content"])


async def test_a_reply_does_not_restore_a_conversation_deleted_meanwhile(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        conversation = await talk(f, "Hi")
        f.engine.reply = None
        f.engine.submitted.clear()
        f.engine.jobs.clear()
        replying = asyncio.create_task(f.post("/api/chat", {"message": "And then?", "conversationId": conversation}))
        job = await next_chat(f)
        f.engine.start_job(job.id)
        await f.delete(f"/api/conversations/{conversation}")
        f.engine.finish_chat(job.id, "Then")

        assert (await replying).json()["reply"] == "Then"
        assert (await f.get(f"/api/conversations/{conversation}")).status_code == 404


async def test_a_conversation_of_v1_is_not_stored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "model": "talker"})

        assert (await f.get("/api/conversations")).json()["conversations"] == []


def test_the_migration_lists_conversations_of_older_versions(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:

        def downgrade_and_upgrade(conn: Any) -> None:
            messages.append(conn, "anna", "c1", [Message("user", "Hello \x00 there"), Message("assistant", "Hi")], NOW)
            messages.append(conn, "anna", "c2", [Message("user", "Other")], NOW)
            messages.append(conn, "anna", "c1", [Message("user", "More")], NOW)
            schema.conversations.drop(conn)
            schema.a1111_options.drop(conn)
            schema.responses.drop(conn)
            schema.job_inputs.drop(conn)
            schema.input_files.drop(conn)
            schema.open_chats.drop(conn)
            conn.exec_driver_sql("ALTER TABLE outputs DROP COLUMN flagged")
            conn.exec_driver_sql("UPDATE alembic_version SET version_num = '0004'")
            migrations.upgrade(conn)

        database.write_now(downgrade_and_upgrade)
        rows, _ = database.read_now(lambda conn: store.page(conn, "anna", 9, None))

    assert [(row.id, row.title, row.created_at) for row in rows] == [
        ("c1", "Hello \x00 there", NOW),
        ("c2", "Other", NOW),
    ]
