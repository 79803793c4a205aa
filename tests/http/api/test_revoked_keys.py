"""What a revoked key had under way ends: jobs, event streams, chats, webhooks and links."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.store import keys, webhooks
from tests.support.http.chats import next_chat
from tests.support.http.front import IMAGE, Front, front
from tests.support.http.streams import stream

pytestmark = pytest.mark.anyio


async def revoke(f: Front, plan: str) -> None:
    listed = (await f.get("/api/keys", "admin")).json()["keys"]
    (key_id,) = (key["id"] for key in listed if key["name"] == plan)
    assert (await f.delete(f"/api/keys/{key_id}", "admin")).status_code == 200
    await f.settle()


async def states(f: Front) -> dict[str, str]:
    def read(conn: Any) -> dict[str, str]:
        return {row.id: row.state for row in conn.exec_driver_sql("SELECT id, state FROM jobs")}

    return await f.database.read(read)  # type: ignore[no-any-return]


async def test_queued_and_running_jobs_of_a_revoked_key_end_and_other_keys_jobs_go_on(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        running, queued, other = await f.submit("pro"), await f.submit("pro"), await f.submit()
        f.engine.start_job(running)
        await revoke(f, "pro")
        f.engine.confirm_cancel(running)
        await f.settle()
        found = await states(f)

        assert (found[running], found[queued], found[other]) == ("canceled", "canceled", "queued")


async def test_the_event_stream_of_a_revoked_key_ends(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.submit("pro")
        async with stream(f, "/api/events", key="pro") as reader, stream(f, "/api/events") as other:
            await reader.until("position")
            await revoke(f, "pro")
            while await reader.next() is not None:
                pass
            await f.submit()
            await other.until("position")


async def test_a_revoked_keys_links_open_nothing(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        url = (await f.complete("pro"))["outputs"][0]["url"]
        assert (await f.client.get(url)).status_code == 200
        await revoke(f, "pro")
        assert (await f.client.get(url)).status_code == 404


async def test_a_revoked_keys_webhooks_are_not_called(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.complete("pro", webhook_url="https://hooks.example/")
        assert await f.database.read(lambda conn: webhooks.due(conn, f.clock(), 10))
        await revoke(f, "pro")
        assert not await f.database.read(lambda conn: webhooks.due(conn, f.clock(), 10))


async def test_the_work_of_a_key_that_another_process_revoked_ends(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        queued = await f.submit("pro")
        await f.database.write(lambda conn: keys.revoke_key(conn, "pro", f.clock()))
        await f.service.revocations.end_revoked()
        await f.settle()

        assert (await states(f))[queued] == "canceled"


async def test_a_request_that_its_key_outlives_by_nothing_is_not_charged(tmp_path: Path) -> None:
    """The key is still remembered as valid when it has been revoked a moment ago."""
    async with front(tmp_path) as f:
        await f.get("/api/me", "pro")
        await f.database.write(lambda conn: keys.revoke_key(conn, "pro", f.clock()))
        image = await f.post("/api/generate", IMAGE, "pro")
        chat = await f.post("/api/chat", {"message": "hi"}, "pro")

        assert (image.status_code, chat.status_code) == (401, 401)
        assert not await states(f)


async def test_a_reply_to_a_revoked_key_ends(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        asking = asyncio.create_task(f.post("/api/chat", {"message": "hi"}, "pro"))
        job = await next_chat(f)
        await revoke(f, "pro")
        assert f.engine.canceled == [job.id]
        f.engine.confirm_cancel(job.id)
        reply = await asyncio.wait_for(asking, 5)

        assert reply.status_code == 502
