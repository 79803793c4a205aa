"""Pictures in chats that were sent before, and are named by the ids of their files, in each dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.openai.test_chat_images import seeing
from tests.support.http.input_files import JPEG, PNG, uploaded
from tests.support.odd_files.clips import H264, clip

pytestmark = pytest.mark.anyio

TEXT = {"type": "text", "text": "What?"}


def chat(file_id: str) -> tuple[str, dict[str, Any]]:
    part = {"type": "image_url", "file_id": file_id, "detail": "low"}
    return "/v1/chat/completions", {"model": "seer", "messages": [{"role": "user", "content": [TEXT, part]}]}


def response(file_id: str) -> tuple[str, dict[str, Any]]:
    parts = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "file_id": file_id, "detail": "low"}]
    return "/v1/responses", {"model": "seer", "input": [{"role": "user", "content": parts}]}


def message(file_id: str) -> tuple[str, dict[str, Any]]:
    part = {"type": "image", "source": {"type": "file", "file_id": file_id}}
    body = {"model": "seer", "max_tokens": 20, "messages": [{"role": "user", "content": [TEXT, part]}]}
    return "/v1/messages", body


DIALECTS = pytest.mark.parametrize("of", [chat, response, message])


@DIALECTS
async def test_the_model_sees_the_picture_of_the_file(tmp_path: Path, of: Any) -> None:
    async with seeing(tmp_path) as f:
        file_id = await uploaded(f, JPEG)
        reply = await f.post(*of(file_id))
        kept = (await f.get(f"/api/files/{file_id}")).content
        [[asked]] = f.prompt_reader.messages

    assert reply.status_code == 200, reply.text
    assert [image.data for image in asked.images] == [kept]
    assert asked.images[0].longest_side == (None if of is message else 512)


@DIALECTS
async def test_files_that_the_key_does_not_have_are_one_and_the_same_400(tmp_path: Path, of: Any) -> None:
    async with seeing(tmp_path) as f:
        foreign, deleted = await uploaded(f, PNG, "other"), await uploaded(f, JPEG)
        await f.delete(f"/api/files/{deleted}")
        replies = [await f.post(*of(file_id), "enterprise") for file_id in (foreign, deleted, "file_" + "0" * 22)]
        malformed = await f.post(*of("../secret"))
        used = await f.used("chats", "enterprise")

    assert {reply.status_code for reply in (*replies, malformed)} == {400}
    assert len({reply.json()["error"]["message"] for reply in replies}) == 1
    assert "there is no such file" in replies[0].text
    assert "must be the id of a picture that was sent to POST /v1/files" in malformed.text
    assert used == 0


async def test_a_clip_is_no_picture_and_a_picture_has_one_source(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f:
        a_clip = await f.post(*chat(await uploaded(f, clip("mp4", *H264))))
        path, body = chat(await uploaded(f, PNG))
        body["messages"][0]["content"][1]["image_url"] = {"url": "data:image/png;base64,AAAA"}
        both = await f.post(path, body)

    assert (a_clip.status_code, both.status_code) == (400, 400)
    assert "must be the id of a picture, and not of a clip" in a_clip.text
    assert "file_id must be left out beside image_url" in both.text


async def test_a_response_keeps_the_id_of_its_picture(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f:
        file_id = await uploaded(f, PNG)
        first = (await f.post(*response(file_id))).json()
        items = (await f.get(f"/v1/responses/{first['id']}/input_items")).json()["data"]
        body = {"model": "seer", "input": "And now?", "previous_response_id": first["id"]}
        second = await f.post("/v1/responses", body)

    assert {"type": "input_image", "file_id": file_id, "detail": "low"} in items[0]["content"]
    assert second.status_code == 200, second.text
    assert sum(len(each.images) for each in f.prompt_reader.messages[-1]) == 1
