"""One's own day over HTTP, and keys made and ended by an admin."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.accounts.auth import Authenticator
from server.store.keys import create_key
from tests.support.front import MORNING, VIDEO, Front, front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def admin(f: Front) -> str:
    _, key = await f.database.write(lambda conn: create_key(conn, "boss", "pro", {"use", "admin"}, MORNING))
    return str(key)


async def test_a_key_sees_its_plan_its_scopes_and_what_it_used_today(tmp_path: Path) -> None:
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


async def test_a_key_that_was_made_is_shown_once_and_works_until_it_is_revoked(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        boss = await admin(f)
        made = (await f.post("/api/keys", {"name": " studio ", "plan": "free"}, boss)).json()
        assert (await f.get("/api/me", made["key"])).json()["name"] == "studio"
        await f.submit(made["key"])
        listed = (await f.get("/api/keys", boss)).json()
        revoked = (await f.delete(f"/api/keys/{made['id']}", boss)).json()
        again = (await f.delete(f"/api/keys/{made['id']}", boss)).json()
        fresh = Authenticator(f.database, local_key=None)
        with pytest.raises(Exception, match="Missing or invalid API key"):
            await fresh.identify(f"Bearer {made['key']}")

    mine = next(key for key in listed["keys"] if key["id"] == made["id"])
    assert made.keys() - mine.keys() == {"key"}
    assert made["key"].startswith(mine["hint"])
    assert made["key"] not in str(listed)
    assert (mine["plan"], mine["scopes"], mine["revokedAt"]) == ("free", ["use"], None)
    assert mine["usage"]["images"] == {"used": 1, "limit": 10}
    assert listed["plans"]["free"] == {"images": 10, "videos": 2, "chats": 50}
    assert revoked["revokedAt"] == "2026-11-24T09:00:00.000Z"
    assert again == revoked


async def test_an_admin_can_make_an_admin(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        boss = await admin(f)
        made = await f.post("/api/keys", {"name": "second", "plan": "pro", "scopes": ["admin", "use"]}, boss)

        assert (await f.get("/api/keys", made.json()["key"])).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/api/keys", None), ("POST", "/api/keys", {"name": "x", "plan": "free"}), ("DELETE", "/api/keys/key_" + "0" * 22, None)],
)  # fmt: skip
async def test_keys_are_an_admins_to_see_and_to_change(tmp_path: Path, method: str, path: str, body: object) -> None:
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
async def test_a_wrong_field_of_a_new_key_is_named(tmp_path: Path, body: object, text: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/keys", body, await admin(f))

    assert reply.status_code == 400
    assert text in reply.json()["error"]


async def test_two_live_keys_never_share_a_name_and_the_error_does_not_repeat_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        boss = await admin(f)
        reply = await f.post("/api/keys", {"name": "free", "plan": "pro"}, boss)

    assert reply.status_code == 409
    assert "'free'" not in reply.json()["error"]


@pytest.mark.parametrize("key_id", ["key_" + "0" * 22, "free", "local", "an_000000"])
async def test_only_an_id_that_is_there_can_be_revoked(tmp_path: Path, key_id: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.delete(f"/api/keys/{key_id}", await admin(f))

        assert (reply.status_code, reply.json()) == (404, {"error": "There is no such key.", "code": 404})
        assert (await f.get("/api/me", "free")).status_code == 200
