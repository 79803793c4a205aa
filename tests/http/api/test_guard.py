"""The guard and the key check: Host, Origin, API keys, and the error body of every rejected request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute

from server.errors import Unauthorized
from server.http.error_body import error_body
from server.http.guard import Guard
from server.store.keys import create_key, new_key, revoke_key
from tests.support.http.front import IMAGE, MORNING, front

pytestmark = pytest.mark.anyio

UNAUTHORIZED = b'{"error":"Missing or invalid API key. Send \'Authorization: Bearer YOUR_API_KEY\'.","code":401}'
PUBLIC = {(method, path) for method in ("GET", "HEAD") for path in ("/", "/healthz", "/readyz")}


def routes_of(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Returns every method and path. An unknown kind of route fails the test, so that no route is missed."""
    found = set()
    for route in routes:
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in route.methods}
        else:
            router = getattr(route, "original_router", None)
            assert router is not None, f"this test must handle {route!r}"
            found |= routes_of(router.routes)
    return found


async def test_every_route_except_the_public_ones_needs_a_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        routes = routes_of(f.app.routes)
        assert len(routes) >= 15
        assert routes >= PUBLIC
        for method, template in sorted(routes - PUBLIC):
            path = template.replace("{job_id}", "job_1767225600_" + "0" * 22).replace("{output_id}", "0" * 22)
            reply = await f.client.request(method, path)
            request_id = reply.headers["x-request-id"]
            body = error_body(401, Unauthorized().message, path, request_id=request_id)
            assert (reply.status_code, reply.content) == (401, b"" if method == "HEAD" else body), (method, path)
            assert reply.headers["www-authenticate"] == "Bearer"
        for method, path in PUBLIC:
            assert (await f.client.request(method, path)).status_code == 200


async def test_a_new_route_or_mount_needs_a_key_by_default(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.app.add_route("/forgotten", lambda request: PlainTextResponse("secret"))
        f.app.mount("/mounted", PlainTextResponse("secret"))
        replies = [
            await f.client.get(path) for path in ("/forgotten", "/mounted/x", "/nothing", "/docs", "/openapi.json")
        ]

    assert {reply.status_code for reply in replies} == {401}


async def test_every_invalid_key_gets_the_same_401(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        _, revoked = await f.database.write(lambda conn: create_key(conn, "gone", "pro", {"use"}, MORNING))
        await f.database.write(lambda conn: revoke_key(conn, "gone", MORNING))
        valid = f.keys["pro"]
        altered = valid[:-1] + ("y" if valid[-1] == "x" else "x")
        headers = [
            "", "Bearer", "Bearer ", f"Bearer {revoked}", f"Bearer {new_key()}", f"Bearer {altered}", f"Basic {valid}",
            f"Bearer {valid} x", valid, "Bearer " + "a" * 8192, "Bearer é", "Bearer \x80\xff", f"Bearer\t{valid}",
        ]  # fmt: skip
        replies = [
            await f.client.get("/api/jobs", headers={"authorization": header.encode("latin-1")}) for header in headers
        ]
        replies.append(await f.client.get(f"/api/jobs?key={valid}&authorization=Bearer%20{valid}"))
        twice = [("authorization", f"Bearer {valid}"), ("authorization", f"Bearer {revoked}")]
        replies.append(await f.client.get("/api/jobs", headers=twice))

    assert {(reply.status_code, reply.content) for reply in replies} == {(401, UNAUTHORIZED)}


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
async def test_the_headers_of_other_clients_carry_a_key(tmp_path: Path, name: str) -> None:
    """As Anthropic's and Azure's libraries send it. An Authorization header wins, whatever it holds."""
    async with front(tmp_path) as f:
        valid, wrong = f.keys["pro"], new_key()
        bearer = f.auth("pro")["authorization"]
        accepted = [
            {name: valid},
            {name.upper(): valid},
            {name: wrong, "authorization": bearer},
            [(name, valid), (name, valid)],
            {name: valid, "Origin": "http://localhost:3001"},
        ]
        refused = [
            {name: wrong},
            {name: ""},
            {name: f"Bearer {valid}"},
            {name: valid, "authorization": f"Bearer {wrong}"},
            {name: valid, "authorization": ""},
            [(name, valid), (name, wrong)],
            [(name, wrong), (name, valid)],
        ]
        good = [await f.client.get("/api/jobs", headers=headers) for headers in accepted]
        bad = [await f.client.get("/api/jobs", headers=headers) for headers in refused]
        openai = await f.client.get("/v1/models", headers={name: valid})

    assert {reply.status_code for reply in [*good, openai]} == {200}
    assert {(reply.status_code, reply.content) for reply in bad} == {(401, UNAUTHORIZED)}
    assert {reply.headers["www-authenticate"] for reply in bad} == {"Bearer"}


async def test_of_two_keys_in_headers_of_their_own_the_first_kind_counts(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        valid, wrong = f.keys["pro"], new_key()
        first = await f.client.get("/api/jobs", headers={"x-api-key": valid, "api-key": wrong})
        second = await f.client.get("/api/jobs", headers={"x-api-key": wrong, "api-key": valid})

    assert (first.status_code, second.status_code) == (200, 401)


async def test_a_key_without_the_scope_is_a_403(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        _, key = await f.database.write(lambda conn: create_key(conn, "ops", "pro", {"admin"}, MORNING))
        reply = await f.get("/api/jobs", key)

    assert (reply.status_code, reply.json()["code"]) == (403, 403)


@pytest.mark.parametrize(
    "path",
    ["/%61pi/jobs", "//api/jobs", "/api//jobs", "/api/./jobs", "/api/../api/jobs", "/api/jobs;x", "/API/JOBS",
     "/api/jobs/", "/healthz/../api/jobs", "/healthz%2f..%2fapi/jobs", "/healthz;/api/jobs", "/healthz%00"],
)  # fmt: skip
async def test_no_spelling_of_a_path_bypasses_the_key(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        url = httpx.URL(f.client.base_url, raw_path=path.encode())
        without_key = await f.client.send(httpx.Request("GET", url))

    assert without_key.status_code == 401
    assert "location" not in without_key.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:3001", 200), ("127.0.0.1:3001", 200), ("[::1]:3001", 200), ("[::1]", 200),
        ("media.lan", 200), ("media.lan:80", 200),
        ("", 400), ("evil.example", 400), ("localhost.evil.example", 400), ("evil.example:localhost", 400),
        ("a@localhost", 400), ("localhost:x", 400), ("localhost:", 400), ("localhost:123456", 400), ("127.0.0.2", 400),
        ("0.0.0.0", 400), ("[::2]", 400), ("localhost.", 400), ("localhost, evil.example", 400),
        ("localhost/evil", 400),
    ],
)  # fmt: skip
async def test_the_host_header_is_always_checked(tmp_path: Path, host: str, status: int) -> None:
    async with front(tmp_path, allowed_hosts=("media.lan",)) as f:
        replies = [
            await f.client.get("/healthz", headers={"host": host}),
            await f.get("/api/jobs", host=host),
        ]

    assert {reply.status_code for reply in replies} == {status}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:3001"}, 200),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "https://app.example", "sec-fetch-site": "cross-site"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://localhost:8080"}, 403),
        ({"origin": "http://127.0.0.1:3001"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://app.example"}, 403),
        ({"origin": "https://app.example.evil.example"}, 403),
        ({"origin": "http://localhost:3001/x"}, 403),
        ({"origin": "file://localhost:3001"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_pages_of_other_origins_are_refused(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with front(tmp_path, allowed_origins=("https://app.example",)) as f:
        reply = await f.post("/api/generate", IMAGE, **headers)

        assert len(f.engine.jobs) == (1 if status == 200 else 0)
    assert reply.status_code == status
    assert ("access-control-allow-origin" in reply.headers) == (headers.get("origin") == "https://app.example")


async def test_a_link_from_another_site_opens(tmp_path: Path) -> None:
    navigation = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with front(tmp_path) as f:
        assert (await f.client.get("/healthz", headers=navigation)).status_code == 200
        assert (await f.client.post("/healthz", headers=navigation)).status_code == 403


def preflight(*headers: str, origin: str = "https://app.example", method: str = "POST") -> dict[str, str]:
    """The headers by which a browser asks whether a page may send a request."""
    asked = {"access-control-request-headers": ",".join(sorted(headers))} if headers else {}
    return {"origin": origin, "access-control-request-method": method, "sec-fetch-site": "cross-site", **asked}


OPENAI_NODE = [f"x-stainless-{name}" for name in ("arch", "lang", "os", "package-version", "retry-count", "timeout")]
ANTHROPIC = ["x-api-key", "anthropic-version", "anthropic-dangerous-direct-browser-access"]


async def test_cors_is_off_until_origins_are_configured(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.options("/api/generate", headers=preflight())

    assert reply.status_code == 403
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/api/generate", "/nothing/there"])
@pytest.mark.parametrize("asked", [[], ["authorization", "content-type", *OPENAI_NODE], ANTHROPIC, ["x-" + "y" * 500]])
async def test_a_preflight_of_an_allowed_origin_passes_whatever_it_asks_for(
    tmp_path: Path, path: str, asked: list[str]
) -> None:
    async with front(tmp_path, allowed_origins=("https://app.example",)) as f:
        reply = await f.client.options(path, headers=preflight(*asked))

    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert {*reply.headers.get("access-control-allow-headers", "").split(",")} - {""} == {*asked}
    assert "POST" in reply.headers["access-control-allow-methods"].split(", ")
    assert int(reply.headers["access-control-max-age"]) >= 600
    assert "origin" in reply.headers["vary"].lower()
    assert "access-control-allow-private-network" not in reply.headers


async def test_a_public_page_may_reach_this_machine_only_if_it_is_allowed(tmp_path: Path) -> None:
    private = {"access-control-request-private-network": "true"}
    async with front(tmp_path, allowed_origins=("https://app.example",)) as f:
        allowed = await f.client.options("/api/chat", headers=preflight() | private)
        foreign = await f.client.options("/api/chat", headers=preflight(origin="https://evil.example") | private)

    assert allowed.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in foreign.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", "null", "https://app.example.evil"])
async def test_a_preflight_of_any_other_origin_is_refused(tmp_path: Path, origin: str) -> None:
    async with front(tmp_path, allowed_origins=("https://app.example",)) as f:
        reply = await f.client.options("/api/chat", headers=preflight("authorization", origin=origin))

    assert (reply.status_code, reply.json()["code"]) == (403, 403)
    assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_a_page_of_an_allowed_origin_may_read_every_reply_and_its_limits(tmp_path: Path) -> None:
    """Errors too: without these headers a browser tells the page only that the network failed."""
    origin = {"origin": "https://app.example"}
    async with front(tmp_path, allowed_origins=("https://app.example/",)) as f:
        replies = [
            await f.post("/api/generate", IMAGE, **origin),
            await f.post("/api/generate", b"{", **origin),
            await f.client.get("/v1/models", headers=origin),
            await f.get("/api/nothing", **origin),
            await f.post("/api/generate", IMAGE, **origin | {"content-encoding": "gzip"}),
            await f.get("/api/jobs", **origin | {"host": "evil.example"}),
        ]
        without = await f.get("/api/jobs")

    assert [reply.status_code for reply in replies] == [200, 400, 401, 404, 415, 400]
    assert {reply.headers["access-control-allow-origin"] for reply in replies} == {"https://app.example"}
    exposed = replies[0].headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= {
        *exposed
    }
    assert "access-control-allow-origin" not in without.headers
    assert without.headers["vary"] == "Origin"


async def test_every_reply_has_its_own_request_id_and_safe_headers(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = [
            await f.client.get("/healthz"),
            await f.client.get("/nope"),
            await f.get("/nope"),
            await f.get("/api/jobs"),
        ]
        replies.append(await f.client.get("/healthz", headers={"host": "evil.example", "x-request-id": "mine"}))

    assert len({reply.headers["x-request-id"] for reply in replies}) == len(replies)
    assert {reply.headers["x-content-type-options"] for reply in replies} == {"nosniff"}
    assert {reply.headers["cache-control"] for reply in replies} == {"no-store"}


async def test_unknown_paths_and_methods_get_the_usual_error_body(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        unknown, method = await f.get("/api/nope"), await f.get("/api/generate")
        several = await f.client.options("/api/keys", headers=f.auth("enterprise"))

    assert several.headers["allow"] == "GET, POST"
    assert (unknown.status_code, unknown.json()) == (404, {"error": "There is nothing at this address.", "code": 404})
    assert (method.status_code, method.json()["code"], method.headers["allow"]) == (405, 405, "POST")


async def test_a_bug_is_a_500_that_reveals_only_its_request_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with front(tmp_path) as f:
        f.service.models.all = lambda: 1 / 0  # type: ignore[method-assign]  # a bug
        reply = await f.get("/api/models")

    assert (reply.status_code, reply.json().keys()) == (500, {"error", "code"})
    assert "division" not in reply.text
    assert reply.headers["x-request-id"] in {getattr(record, "request_id", None) for record in caplog.records}


async def test_too_many_concurrent_requests_get_the_usual_error_body(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        one_at_once = httpx.ASGITransport(Guard(f.app, max_at_once=1))
        async with httpx.AsyncClient(transport=one_at_once, base_url="http://localhost") as client:
            f.engine.reply = None
            chatting = asyncio.create_task(client.post("/api/chat", json={"message": "Hi"}, headers=f.auth("pro")))
            await f.engine.submitted.wait()
            refused = await client.get("/healthz")
            (job_id,) = f.engine.jobs
            f.engine.finish_chat(job_id, "Hello")
            assert (await chatting).status_code == 200
            again = await client.get("/healthz")

    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, 429, "1")
    assert again.status_code == 200


async def test_readyz_has_the_reason_and_healthz_stays_ok(tmp_path: Path) -> None:
    async with front(tmp_path, ready=lambda: "the engine is starting") as f:
        health, ready = await f.client.get("/healthz"), await f.client.get("/readyz")

    assert health.status_code == 200
    assert (ready.status_code, ready.json()["error"]) == (502, "Not ready: the engine is starting.")
    assert int(ready.headers["retry-after"]) >= 1


async def test_the_openapi_document_needs_a_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.client.get("/api/openapi.json")).status_code == 401
        document = (await f.get("/api/openapi.json")).json()

    assert document["paths"].keys() >= {"/api/generate", "/api/chat", "/api/status/{job_id}"}
