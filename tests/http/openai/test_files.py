"""/v1/files: pictures and clips in OpenAI's format, as its client uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening
from tests.support.http.picture_doors import TAKING, accepted, kept, picture, send

pytestmark = pytest.mark.anyio

FILES = "/v1/files"
PICTURE = picture()


def part(data: bytes, name: str = "file") -> tuple[str, Any]:
    return name, ("a.png", data, "image/png")


async def test_the_python_client_uploads_lists_uses_and_deletes_files(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TAKING) as f, listening(f) as address:
        finish_jobs(f)
        requests = accepted(f)
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=f.keys["pro"], max_retries=0) as ai:
            made = [await ai.files.create(file=picture(side, 8), purpose="vision") for side in (16, 24, 32)]
            listed = [file.id async for file in ai.files.list(limit=2)]  # two pages
            found = await ai.files.retrieve(made[0].id)
            content = await ai.files.content(made[0].id)
            await ai.post("/images/edits", body={"prompt": "x", "images": [{"file_id": made[2].id}]}, cast_to=object)
            deleted = await ai.files.delete(made[0].id)
            with pytest.raises(openai.NotFoundError):
                await ai.files.retrieve(made[0].id)
        used = await kept(f, requests[0].image, "pro")

    assert listed == [file.id for file in made[::-1]]
    assert found == made[0]
    assert (found.object, found.purpose, found.status, found.bytes) == (
        "file", "vision", "processed", len(picture(16, 8)),
    )  # fmt: skip
    assert found.expires_at is not None
    assert found.expires_at > found.created_at
    assert found.filename == f"{found.id}.png"
    assert content.content[:8] == PICTURE[:8]
    assert used.size == (32, 8)
    assert (deleted.id, deleted.deleted) == (made[0].id, True)


async def test_a_file_is_its_keys_alone_and_the_same_in_both_dialects(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        made = (await send(f, FILES, {"purpose": "vision"}, [part(PICTURE)])).json()
        native = (await f.get("/api/files")).json()["files"]
        foreign = [
            await f.get(f"{FILES}/{made['id']}", "other"),
            await f.get(f"{FILES}/{made['id']}/content", "other"),
            await f.delete(f"{FILES}/{made['id']}", "other"),
            await f.get(f"{FILES}/file-abc"),
        ]
        others = (await f.get(FILES, "other")).json()
        no_batches = (await f.get(f"{FILES}?purpose=batch")).json()

    assert [file["fileId"] for file in native] == [made["id"]]
    assert [(reply.status_code, reply.json()["error"]["code"]) for reply in foreign] == [(404, "not_found")] * 4
    assert len({reply.json()["error"]["message"] for reply in foreign}) == 1
    assert others["data"] == no_batches["data"] == []


REFUSED: list[tuple[dict[str, str], list[Any], str, str | None]] = [
    ({"purpose": "batch"}, [part(PICTURE)], "purpose must be vision", "purpose"),
    ({"purpose": "vision", "n": "1"}, [part(PICTURE)], "Unknown field n", "n"),
    ({}, [part(PICTURE)], "purpose is required", "purpose"),
    ({"purpose": "vision"}, [part(b"{}")], "file must be a PNG", "file"),
    ({"purpose": "vision"}, [part(PICTURE)] * 2, "file is required: one", "file"),
    ({"purpose": "vision"}, [part(PICTURE, "files")], "Unknown field files", "files"),
    ({"purpose": "vision", "file": "x"}, [], "file is required: one", "file"),
]


@pytest.mark.parametrize(("fields", "files", "message", "param"), REFUSED, ids=range(len(REFUSED)))
async def test_other_files_are_refused(
    tmp_path: Path, fields: dict[str, str], files: list[Any], message: str, param: str | None
) -> None:
    async with front(tmp_path) as f:
        reply = await send(f, FILES, fields, files)

    assert reply.status_code == 400, reply.text
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == param


async def test_the_query_of_the_list_is_checked(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        wrong = [
            await f.get(f"{FILES}?{query}")
            for query in ("limit=0", "limit=10001", "limit=x", "order=asc", "after=x", "colour=red", "limit=1&limit=2")
        ]
        most = await f.get(f"{FILES}?limit=10000&order=desc")

    assert [reply.status_code for reply in wrong] == [400] * 7
    assert most.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
