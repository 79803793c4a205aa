"""GET /api/me, and keys that an admin lists, creates and revokes."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.accounts.auth import Authenticator
from server.store.keys import create_key
from tests.support.http.front import MORNING, VIDEO, Front, front

pytestmark = pytest.mark.anyio


async def admin(f: Front) -> str:
    _, key = await f.database.write(lambda conn: create_key(conn, "boss", "pro", {"use", "admin"}, MORNING))
    return str(key)


async def test_a_key_sees_its_plan_scopes_and_usage_of_today(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.submit("free", n=3)
        await f.submit("free", **VIDEO)
        me = (await f.get("/api/me", "free")).json()
        f.clock.forward(hours=15)
        tomorrow = (await f.get("/api/me", "free")).json()

    assert (me["name"], me["plan"], me["scopes"], me["resetsAt"]) == (
        "free", "free", ["use"], "2026-11-25T00:00:00.000Z",
    )  # fmt: skip
    assert me["usage"] == {
        "images": {"used": 3, "limit": 10},
        "videos": {"used": 1, "limit": 2},
        "chats": {"used": 0, "limit": 50},
    }
    assert (tomorrow["usage"]["images"]["used"], tomorrow["resetsAt"]) == (0, "2026-11-26T00:00:00.000Z")


async def test_an_unlimited_plan_has_null_for_its_limit(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        me = (await f.get("/api/me")).json()

    assert me["usage"]["images"] == {"used": 0, "limit": None}


async def test_a_new_key_is_shown_once_and_works_until_it_is_revoked(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        admin_key = await admin(f)
        created = (await f.post("/api/keys", {"name": " studio ", "plan": "free"}, admin_key)).json()
        assert (await f.get("/api/me", created["key"])).json()["name"] == "studio"
        await f.submit(created["key"])
        listed = (await f.get("/api/keys", admin_key)).json()
        revoked = (await f.delete(f"/api/keys/{created['id']}", admin_key)).json()
        await f.settle()
        again = (await f.delete(f"/api/keys/{created['id']}", admin_key)).json()
        fresh = Authenticator(f.database, local_key=None)
        with pytest.raises(Exception, match="Missing or invalid API key"):
            await fresh.identify(f"Bearer {created['key']}")

    mine = next(key for key in listed["keys"] if key["id"] == created["id"])
    assert created.keys() - mine.keys() == {"key"}
    assert created["key"].startswith(mine["hint"])
    assert created["key"] not in str(listed)
    assert (mine["plan"], mine["scopes"], mine["revokedAt"]) == ("free", ["use"], None)
    assert mine["usage"]["images"] == {"used": 1, "limit": 10}
    assert listed["plans"]["free"] == {"images": 10, "videos": 2, "chats": 50}
    assert revoked["revokedAt"] == "2026-11-24T09:00:00.000Z"
    assert again == revoked | {"usage": again["usage"]}
    assert again["usage"]["images"]["used"] == 0  # its job was queued, and is canceled with the key


async def test_an_admin_can_create_an_admin_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        admin_key = await admin(f)
        created = await f.post("/api/keys", {"name": "second", "plan": "pro", "scopes": ["admin", "use"]}, admin_key)

        assert (await f.get("/api/keys", created.json()["key"])).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/keys", None),
        ("POST", "/api/keys", {"name": "x", "plan": "free"}),
        ("DELETE", "/api/keys/key_" + "0" * 22, None),
    ],
)
async def test_listing_and_changing_keys_needs_an_admin_key(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.request(method, path, json=body, headers=f.auth("enterprise"))

    assert (reply.status_code, reply.json()) == (403, {"error": "This API key lacks the scope 'admin'.", "code": 403})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"plan": "free"}, "name is required"),
        ({"name": " ", "plan": "free"}, "name must be"),
        ({"name": "a\nb", "plan": "free"}, "name must be"),
        ({"name": "a\u202eb", "plan": "free"}, "name must be"),
        ({"name": "x" * 101, "plan": "free"}, "name must be"),
        ({"name": "x"}, "plan is required"),
        ({"name": "x", "plan": "gold"}, "plan must be one of free, pro, enterprise."),
        ({"name": "x", "plan": "free", "scopes": []}, "scopes must be"),
        ({"name": "x", "plan": "free", "scopes": ["root"]}, "scopes must be"),
        ({"name": "x", "plan": "free", "scope": ["use"]}, "did you mean scopes?"),
    ],
)
async def test_an_invalid_field_of_a_new_key_is_named(tmp_path: Path, body: object, text: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/keys", body, await admin(f))

    assert reply.status_code == 400
    assert text in reply.json()["error"]


async def test_a_taken_name_is_a_conflict_whose_message_does_not_repeat_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        admin_key = await admin(f)
        reply = await f.post("/api/keys", {"name": "free", "plan": "pro"}, admin_key)

    assert reply.status_code == 409
    assert "'free'" not in reply.json()["error"]


@pytest.mark.parametrize("key_id", ["key_" + "0" * 22, "free", "local", "an_000000"])
async def test_only_an_existing_id_can_be_revoked(tmp_path: Path, key_id: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.delete(f"/api/keys/{key_id}", await admin(f))

        assert (reply.status_code, reply.json()) == (404, {"error": "There is no such key.", "code": 404})
        assert (await f.get("/api/me", "free")).status_code == 200
