"""/v1 with invalid input, failures and disconnects: statuses in OpenAI's shape, and refunds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.asgi import start_post
from tests.support.http.chats import messages_of
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]


BAD = [
    ("chat/completions", {}, "messages is required"),
    ("chat/completions", {"messages": []}, "messages must be"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio is not"),
    ("chat/completions", {"messages": HI, "n": True}, "n must be"),
    ("chat/completions", {"messages": HI, "tools": [{"type": "web_search"}]}, "type web_search is not supported"),
    ("chat/completions", {"messages": HI, "response_format": {"type": "xml"}}, "response_format.type must be"),
    ("chat/completions", {"messages": HI, "temprature": 1}, "did you mean temperature"),
    ("chat/completions", {"messages": HI, "model": "painter"}, "is for image"),
    ("images/generations", {"prompt": " "}, "prompt must be"),
    ("images/generations", {"prompt": "x", "size": "big"}, "size must be"),
    ("images/generations", {"prompt": "x", "size": "63x64"}, "width must be a multiple"),
    ("images/generations", {"prompt": "x", "quality": "hd"}, "quality is not supported"),
    ("images/generations", {"prompt": "x", "n": 9}, "n must be"),
    ("videos", {"prompt": "x", "seconds": "0"}, "seconds must be"),
    ("videos", {"prompt": "x", "seconds": "61"}, "seconds must be"),
    ("videos", {"prompt": "x", "input_reference": "y"}, "input_reference: there is no such file"),
]


@pytest.mark.parametrize(("path", "body", "message"), BAD)
async def test_an_unsupported_field_is_refused_by_name(tmp_path: Path, path: str, body: Any, message: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post(f"/v1/{path}", body)

    assert reply.status_code == 400, reply.text
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_errors_of_the_guard_and_the_framework_have_openais_shape(tmp_path: Path) -> None:
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


async def test_the_server_does_not_store_a_conversation_of_v1(tmp_path: Path) -> None:
    async with front(tmp_path, system_prompt="Ours.") as f:
        turns = [{"role": "developer", "content": "Mine."}, *HI, {"role": "assistant", "content": "Yes?"}, *HI]
        await f.post("/v1/chat/completions", {"messages": turns})
        _, job = f.engine.jobs.popitem()
        stored = await f.database.read(lambda conn: conn.exec_driver_sql("SELECT count(*) FROM turns").scalar())

    assert messages_of(job) == [("system", "Mine."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Hi")]
    assert stored == 0


async def test_a_failed_image_is_an_error_and_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        generating = asyncio.create_task(f.post("/v1/images/generations", {"prompt": "x"}, "free"))
        await f.engine.submitted.wait()
        f.engine.fail(next(iter(f.engine.jobs)))
        reply = await generating

        assert await f.used("images") == 0
    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "server_error")


async def test_a_client_that_disconnects_cancels_its_image(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await start_post(f, "/v1/images/generations", {"prompt": "x"}, f.engine.submitted, "pro")
        (job_id,) = f.engine.jobs

        assert (await f.status(job_id, "pro"))["status"] == "canceled"


async def test_only_videos_are_listed_in_pages(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        ids = [(await f.post("/v1/videos", {"prompt": f"clip {i}"})).json()["id"] for i in range(3)]
        await f.submit()
        first = (await f.get("/v1/videos?limit=2")).json()
        second = (await f.get(f"/v1/videos?limit=2&after={first['last_id']}")).json()
        image = await f.get(f"/v1/videos/{await f.submit()}")
        foreign = await f.get(f"/v1/videos/{ids[0]}", "other")

    assert [video["id"] for video in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (image.status_code, foreign.status_code) == (404, 404)


async def test_a_form_with_a_file_or_a_repeated_field_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for part in (
            'name="prompt"; filename="a"',
            'name="prompt"\r\n\r\nA\r\n--b\r\nContent-Disposition: form-data; name="prompt"',
            "",
        ):
            form = f"--b\r\nContent-Disposition: form-data; {part}\r\n\r\nA\r\n--b--\r\n".encode()
            reply = await f.post("/v1/videos", form, **{"content-type": "multipart/form-data; boundary=b"})
            assert reply.status_code == 400, part
        malformed = await f.post("/v1/videos", b"x", **{"content-type": "multipart/form-data; boundary=b"})
        elsewhere = await f.post("/api/generate", b"x", **{"content-type": "multipart/form-data; boundary=b"})

    assert (malformed.status_code, elsewhere.status_code) == (400, 400)
