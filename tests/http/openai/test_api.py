"""/v1 on bad input and in bad weather: exact statuses in OpenAI's shape, and nothing paid for that was not given."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.front import Front, front
from tests.support.http_front import finish_jobs

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


BAD = [
    ("chat/completions", {}, "messages is required"),
    ("chat/completions", {"messages": []}, "messages must be"),
    ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages must be"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages must be"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x", "zzz": 1}]}, "messages must be"),
    ("chat/completions", {"messages": HI, "n": 2}, "n is not supported"),
    ("chat/completions", {"messages": HI, "n": True}, "n is not supported"),
    ("chat/completions", {"messages": HI, "logprobs": True}, "logprobs is not supported"),
    ("chat/completions", {"messages": HI, "tools": [{"type": "function"}]}, "tools is not supported"),
    ("chat/completions", {"messages": HI, "response_format": {"type": "json_object"}}, "response_format is not"),
    ("chat/completions", {"messages": HI, "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens and"),
    ("chat/completions", {"messages": HI, "stream_options": {"include_usage": True}}, "stream_options belongs"),
    ("chat/completions", {"messages": HI, "temprature": 1}, "did you mean temperature"),
    ("chat/completions", {"messages": HI, "model": "painter"}, "is for image"),
    ("images/generations", {"prompt": " "}, "prompt must be"),
    ("images/generations", {"prompt": "x", "size": "big"}, "size must be"),
    ("images/generations", {"prompt": "x", "size": "63x64"}, "width must be a multiple"),
    ("images/generations", {"prompt": "x", "quality": "hd"}, "quality is not supported"),
    ("images/generations", {"prompt": "x", "n": 9}, "n must be"),
    ("videos", {"prompt": "x", "seconds": "0"}, "seconds must be"),
    ("videos", {"prompt": "x", "seconds": "61"}, "seconds must be"),
    ("videos", {"prompt": "x", "input_reference": "y"}, "input_reference is not taken"),
]


@pytest.mark.parametrize(("path", "body", "says"), BAD)
async def test_what_is_not_done_here_is_refused_by_name(tmp_path: Path, path: str, body: Any, says: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post(f"/v1/{path}", body)

    assert reply.status_code == 400, reply.text
    assert says in reply.json()["error"]["message"]
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_errors_of_the_door_and_of_the_framework_have_openais_shape_too(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = [
            await f.client.get("/v1/models"),
            await f.get("/v1/nothing"),
            await f.get("/v1/chat/completions"),
            await f.post("/v1/chat/completions", b"{"),
            await f.get("/v1/videos/video_1"),
            await f.get("/v1/videos?limit=0"),
            await f.get("/v1/videos?limit=٣"),
            await f.get("/v1/videos?after=x"),
        ]
        plain = await f.get("/api/nothing")

    assert [reply.status_code for reply in replies] == [401, 404, 405, 400, 404, 400, 400, 400]
    assert all(reply.json()["error"]["message"] for reply in replies)
    assert plain.json().keys() == {"error", "code"}


async def test_neutral_fields_that_clients_send_unasked_are_taken(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        body = {
            "messages": HI,
            "n": 1,
            "logprobs": None,
            "tools": [],
            "user": "anna",
            "response_format": {"type": "text"},
        }
        assert (await f.post("/v1/chat/completions", body)).status_code == 200


async def test_the_server_keeps_nothing_of_a_conversation_that_the_client_keeps(tmp_path: Path) -> None:
    async with front(tmp_path, system_prompt="Ours.") as f:
        turns = [{"role": "developer", "content": "Mine."}, *HI, {"role": "assistant", "content": "Yes?"}, *HI]
        await f.post("/v1/chat/completions", {"messages": turns})
        _, job = f.engine.jobs.popitem()
        said = [(turn.role, turn.content) for turn in job.requests[0].messages]  # type: ignore[union-attr]  # a chat
        kept = await f.database.read(lambda conn: conn.exec_driver_sql("SELECT count(*) FROM turns").scalar())

    assert said == [("system", "Mine."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Hi")]
    assert kept == 0


async def test_a_stream_that_fails_says_so_and_is_not_done(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        replying = asyncio.create_task(f.post("/v1/chat/completions", {"messages": HI, "stream": True}, "free"))
        await f.engine.submitted.wait()
        f.engine.fail(next(iter(f.engine.jobs)), "engine_stopped", "The engine stopped.")
        blocks = (await replying).text.strip().split("\n\n")
        await f.settle()

        assert await f.used("chats") == 0
    assert json.loads(blocks[-1].removeprefix("data: "))["error"]["message"] == "The engine stopped."
    assert "[DONE]" not in blocks[-1]


async def test_a_picture_that_fails_is_an_error_and_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asking = asyncio.create_task(f.post("/v1/images/generations", {"prompt": "x"}, "free"))
        await f.engine.submitted.wait()
        f.engine.fail(next(iter(f.engine.jobs)))
        reply = await asking

        assert await f.used("images") == 0
    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "server_error")


async def test_a_client_that_leaves_while_its_picture_is_made_cancels_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asking = asyncio.create_task(leave_soon(f, "/v1/images/generations", {"prompt": "x"}))
        await f.engine.submitted.wait()
        await asking
        (job_id,) = f.engine.jobs

        assert (await f.status(job_id, "pro"))["status"] == "canceled"


async def test_videos_are_paged_and_only_videos_are_listed(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        made = [(await f.post("/v1/videos", {"prompt": f"clip {i}"})).json()["id"] for i in range(3)]
        await f.submit()
        first = (await f.get("/v1/videos?limit=2")).json()
        second = (await f.get(f"/v1/videos?limit=2&after={first['last_id']}")).json()
        picture = await f.get(f"/v1/videos/{await f.submit()}")
        foreign = await f.get(f"/v1/videos/{made[0]}", "other")

    assert [video["id"] for video in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (picture.status_code, foreign.status_code) == (404, 404)


async def test_a_form_with_a_file_or_a_field_twice_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for part in (
            'name="prompt"; filename="a"',
            'name="prompt"\r\n\r\nA\r\n--b\r\nContent-Disposition: form-data; name="prompt"',
            "",
        ):
            form = f"--b\r\nContent-Disposition: form-data; {part}\r\n\r\nA\r\n--b--\r\n".encode()
            reply = await f.post("/v1/videos", form, **{"content-type": "multipart/form-data; boundary=b"})
            assert reply.status_code == 400, part
        nonsense = await f.post("/v1/videos", b"x", **{"content-type": "multipart/form-data; boundary=b"})
        elsewhere = await f.post("/api/generate", b"x", **{"content-type": "multipart/form-data; boundary=b"})

    assert (nonsense.status_code, elsewhere.status_code) == (400, 400)


async def leave_soon(f: Front, path: str, body: Any) -> None:
    """The application called by a client that leaves as soon as the engine has its job."""
    content = json.dumps(body).encode()
    said = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(content)),
        **f.auth("pro"),
    }
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in said.items()], "http_version": "1.1",
        "scheme": "http", "root_path": "", "client": None, "server": None, "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": content, "more_body": False}
        await f.engine.submitted.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    await f.app(scope, receive, send)  # type: ignore[arg-type]  # Starlette's types are mutable mappings
