"""Nobody is let in: every route × keys × hosts × origins, and every route × scopes × own and others' ids.

The routes come from the application itself, and each needs a line in `ENTRIES`: a new route fails here until somebody
has said who may call it, and whose the thing is that its path names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from server.store.keys import create_key, new_key, revoke_key
from tests.support.http.asgi import http_scope
from tests.support.http.front import IMAGE, MORNING, VIDEO, Front, front
from tests.support.http.input_files import PNG, uploaded

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# Who may call a route; what its path names, if that belongs to a key; its method and path.
ENTRIES = """
public -            GET    /
public -            HEAD   /
use    -            POST   /api/chat
use    -            GET    /api/conversations
use    conversation DELETE /api/conversations/{conversation_id}
use    conversation GET    /api/conversations/{conversation_id}
use    conversation PATCH  /api/conversations/{conversation_id}
use    -            POST   /api/copy
use    -            POST   /api/create
use    -            DELETE /api/delete
use    -            POST   /api/embed
use    -            POST   /api/embeddings
use    -            GET    /api/events
use    -            GET    /api/files
use    -            POST   /api/files
use    file         DELETE /api/files/{file_id}
use    output       GET    /api/files/{file_id}
use    output       HEAD   /api/files/{file_id}
use    -            POST   /api/generate
use    -            GET    /api/gpu
use    -            GET    /api/jobs
use    job          DELETE /api/jobs/{job_id}
use    job          POST   /api/jobs/{job_id}/cancel
use    job          GET    /api/jobs/{job_id}/events
admin  -            GET    /api/keys
admin  -            POST   /api/keys
admin  -            DELETE /api/keys/{key_id}
use    -            GET    /api/loras
use    -            GET    /api/me
use    -            GET    /api/models
admin  -            POST   /api/models
admin  -            POST   /api/models/check
admin  -            POST   /api/models/pull
admin  -            GET    /api/models/pulls
admin  -            GET    /api/models/pulls/{pull_id}
admin  -            POST   /api/models/pulls/{pull_id}/cancel
admin  -            DELETE /api/models/{name}
use    -            GET    /api/models/{name}
admin  -            PATCH  /api/models/{name}
admin  -            POST   /api/models/{name}/load
admin  -            POST   /api/models/{name}/pin
admin  -            POST   /api/models/{name}/unload
admin  -            POST   /api/models/{name}/unpin
use    -            GET    /api/openapi.json
use    -            GET    /api/ps
use    -            POST   /api/pull
use    -            POST   /api/push
use    -            GET    /api/queue
use    -            POST   /api/show
use    job          GET    /api/status/{job_id}
use    -            GET    /api/tags
use    -            GET    /api/version
use    -            GET    /api/webhooks/secret
use    -            GET    /controlnet/model_list
use    -            GET    /controlnet/module_list
use    -            GET    /controlnet/version
public -            GET    /healthz
public -            HEAD   /healthz
admin  -            GET    /metrics
use    -            GET    /page/{name:path}
use    -            HEAD   /page/{name:path}
public -            GET    /readyz
public -            HEAD   /readyz
use    -            POST   /sdapi/v1/extra-batch-images
use    -            POST   /sdapi/v1/extra-single-image
use    -            POST   /sdapi/v1/img2img
use    -            POST   /sdapi/v1/interrogate
use    -            POST   /sdapi/v1/interrupt
use    -            GET    /sdapi/v1/loras
use    -            GET    /sdapi/v1/options
use    -            POST   /sdapi/v1/options
use    -            POST   /sdapi/v1/png-info
use    -            GET    /sdapi/v1/progress
use    -            GET    /sdapi/v1/samplers
use    -            GET    /sdapi/v1/schedulers
use    -            GET    /sdapi/v1/scripts
use    -            GET    /sdapi/v1/sd-models
use    -            POST   /sdapi/v1/txt2img
use    -            GET    /sdapi/v1/upscalers
use    -            POST   /v1/chat/completions
use    -            POST   /v1/completions
use    -            POST   /v1/embeddings
use    -            GET    /v1/files
use    -            POST   /v1/files
use    file         DELETE /v1/files/{file_id}
use    file         GET    /v1/files/{file_id}
use    file         GET    /v1/files/{file_id}/content
use    -            POST   /v1/images/edits
use    -            POST   /v1/images/generations
use    -            POST   /v1/images/variations
use    -            POST   /v1/messages
use    -            POST   /v1/messages/count_tokens
use    -            GET    /v1/models
use    -            GET    /v1/models/{name:path}
use    -            POST   /v1/responses
use    -            POST   /v1/responses/input_tokens
use    response     DELETE /v1/responses/{response_id}
use    response     GET    /v1/responses/{response_id}
use    response     POST   /v1/responses/{response_id}/cancel
use    response     GET    /v1/responses/{response_id}/input_items
use    -            GET    /v1/videos
use    -            POST   /v1/videos
use    -            POST   /v1/videos/edits
use    video        DELETE /v1/videos/{video_id}
use    video        GET    /v1/videos/{video_id}
use    video        GET    /v1/videos/{video_id}/content
use    video        POST   /v1/videos/{video_id}/remix
"""
ORIGIN = "https://app.example"
GOOD_HOSTS = ("localhost:3001", "media.lan")
BAD_HOSTS = ("evil.example", "localhost.evil.example", "", "127.0.0.1:3001, evil.example")
ORIGINS: Mapping[str, bool] = {"": True, ORIGIN: True, "https://evil.example": False, "null": False, "http://[": False}
BODIES: Mapping[str, Any] = {  # of routes whose path names something of a key
    "PATCH /api/conversations/{conversation_id}": {"title": "Mine"},
    "POST /v1/videos/{video_id}/remix": {"prompt": "Slower"},
}
REFUSED = {"/v1/responses/{response_id}/cancel"}  # also to its owner, once it is found
UNKNOWN = {
    "conversation_id": "conv_" + "0" * 22,
    "job_id": "job_1_" + "0" * 22,
    "video_id": "job_1_" + "0" * 22,
    "file_id": "0" * 22,
    "response_id": "resp_" + "0" * 22,
    "name": "nothing",
    "name:path": "nothing",
    "key_id": "key_0",
    "pull_id": "pull_0",
}


def entries() -> Iterator[tuple[str, str, str, str]]:
    for line in ENTRIES.strip().splitlines():
        scope, owned, method, path = line.split()
        yield scope, owned, method, path


def at(path: str, found: str = "") -> str:
    """The path with an id that exists, or one that does not."""
    for name, unknown in UNKNOWN.items():
        path = path.replace(f"{{{name}}}", found or unknown)
    return path


async def status_of(f: Front, method: str, path: str, headers: Mapping[str, str], query: str = "") -> int:
    """The status of a request without a body, and without what a client library costs."""
    statuses: list[int] = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await f.app(http_scope(method, path, headers, query), receive, send)  # type: ignore[arg-type]  # mutable mappings
    (status,) = statuses
    return status


async def test_every_route_has_an_entry(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        contexts = [context for included in f.app.routes for context in included.effective_route_contexts()]  # type: ignore[attr-defined]  # of included routers
    routes = {(method, context.path) for context in contexts for method in context.methods or ()}
    named = [(method, path) for _, _, method, path in entries()]

    assert len(named) == len({*named})
    assert {*named} == routes


async def test_no_route_opens_for_a_wrong_key_host_or_origin(tmp_path: Path) -> None:
    async with front(tmp_path, allowed_hosts=("media.lan",), allowed_origins=(ORIGIN,)) as f:
        _, revoked = await f.database.write(lambda conn: create_key(conn, "gone", "pro", {"use"}, MORNING))
        await f.database.write(lambda conn: revoke_key(conn, "gone", MORNING))
        valid = f.keys["enterprise"]
        altered = valid[:-1] + ("y" if valid[-1] == "x" else "x")
        bad_keys: list[tuple[Mapping[str, str], str]] = [
            ({}, ""),
            ({"authorization": "Bearer "}, ""),
            ({"authorization": f"Bearer {new_key()}"}, ""),
            ({"authorization": f"Bearer {altered}"}, ""),
            ({"authorization": f"Bearer {revoked}"}, ""),
            ({"authorization": "Basic YTpi"}, ""),
            ({"authorization": valid}, ""),
            ({"x-api-key": new_key()}, ""),
            ({}, f"key={valid}"),
        ]
        n_requests = 0
        for (scope, _, method, template), (headers, query) in itertools.product(entries(), bad_keys):
            path = at(template)
            public = scope == "public"
            for host in GOOD_HOSTS:
                status = await status_of(f, method, path, {"host": host, **headers}, query)
                assert (status < 400) if public else (status == 401), (method, path, headers, query)
                n_requests += 1
        for (_, _, method, template), host, origin in itertools.product(entries(), (*GOOD_HOSTS, *BAD_HOSTS), ORIGINS):
            expected = 400 if host in BAD_HOSTS else 403 if not ORIGINS[origin] else None
            if expected is None:
                continue
            for key in ({}, {"authorization": f"Bearer {valid}"}):
                headers = {"host": host, **key, **({"origin": origin} if origin else {})}
                assert await status_of(f, method, at(template), headers) == expected, (method, template, headers)
                n_requests += 1

    assert n_requests >= 3200
    assert f.engine.jobs == {}


async def test_every_scope_opens_its_own_routes_alone(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        _, only_admin = await f.database.write(lambda conn: create_key(conn, "ops", "pro", {"admin"}, MORNING))
        for scope, _, method, template in entries():
            host = {"host": "localhost"}
            path = at(template)
            with_admin = await status_of(f, method, path, host | {"authorization": f"Bearer {only_admin}"})
            assert (with_admin == 403) == (scope != "public"), (method, template)
            if scope == "admin":
                assert await status_of(f, method, path, host | f.auth("enterprise")) == 403, (method, template)


async def test_what_belongs_to_another_key_is_as_unknown_as_what_does_not_exist(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for _, owned, method, template in entries():
            if owned == "-":
                continue
            mine = await made(f, owned)
            body = BODIES.get(f"{method} {template}")
            send = {"json": body} if body is not None else {}
            foreign = await f.client.request(method, at(template, mine), headers=f.auth("other"), **send)
            unknown = await f.client.request(method, at(template), headers=f.auth("other"), **send)
            assert (foreign.status_code, unknown.status_code) == (404, 404), (method, template, foreign.text)
            assert foreign.content == unknown.content, (method, template)
            if not template.endswith("/events"):  # a stream of a job that has not ended does not end
                own = await f.client.request(method, at(template, mine), headers=f.auth("enterprise"), **send)
                assert own.status_code < 300 or template in REFUSED, (method, template, own.text)


async def made(f: Front, owned: str) -> str:
    """The id of a new thing of the key `enterprise`."""
    match owned:
        case "conversation":
            return str((await f.post("/api/chat", {"message": "Hi"})).json()["conversationId"])
        case "response":
            return str((await f.post("/v1/responses", {"input": "Hi"})).json()["id"])
        case "file":
            return await uploaded(f, PNG)
        case "output":
            return str((await f.complete(**IMAGE))["outputs"][0]["url"]).partition("?")[0].rpartition("/")[2]
        case "video":
            return str((await f.complete(**VIDEO))["jobId"])
        case _:
            return str(await f.submit(**IMAGE))
