"""Videos of OpenAI's API that start from pictures and clips, their edits and remixes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.jobs.request.generate_request import GenerateRequest
from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs
from tests.support.http.picture_doors import TAKING, accepted, data_url, kept, picture, send

pytestmark = pytest.mark.anyio

VIDEOS, EDITS = "/v1/videos", "/v1/videos/edits"
PICTURE = picture(64, 32)


@asynccontextmanager
async def filming(folder: Path) -> AsyncIterator[tuple[Front, list[GenerateRequest]]]:
    async with front(folder, catalogue=TAKING) as f:
        finish_jobs(f)
        yield f, accepted(f)


async def video(f: Front, **fields: Any) -> Any:
    """Makes a clip and returns it as it is when it has completed."""
    created = (await f.post(VIDEOS, {"prompt": "Waves", "seconds": "2"} | fields)).json()
    await f.settle()
    return (await f.get(f"{VIDEOS}/{created['id']}")).json()


async def output_of(f: Front, video_id: str) -> str:
    return str((await f.status(video_id))["outputs"][0]["fileId"])


async def clip(f: Front, **fields: Any) -> bytes:
    made = await video(f, **fields)
    return (await f.get(f"{VIDEOS}/{made['id']}/content")).content


async def test_a_video_starts_from_a_picture_in_every_form_that_clients_send(tmp_path: Path) -> None:
    async with filming(tmp_path) as (f, requests):
        uploaded = await f.client.post("/api/files", files={"file": PICTURE}, headers=f.auth("enterprise"))
        file_id = uploaded.json()["fileId"]
        fields = {"prompt": "Waves", "size": "64x32", "seconds": "2"}
        replies = [
            await send(f, VIDEOS, fields, [("input_reference", ("a.png", PICTURE, "image/png"))]),
            await send(f, VIDEOS, fields | {"input_reference[image_url]": data_url(PICTURE)}),
            await send(f, VIDEOS, fields | {"input_reference[file_id]": file_id}),
            await f.post(VIDEOS, fields | {"input_reference": {"image_url": data_url(PICTURE)}}),
            await f.post(VIDEOS, fields | {"input_reference": {"file_id": file_id}}),
        ]
        sizes = [(await kept(f, request.image)).size for request in requests]

    assert [reply.status_code for reply in replies] == [200] * 5, [reply.text for reply in replies]
    assert sizes == [(64, 32)] * 5
    assert {(request.model, request.duration, request.width) for request in requests} == {("animator", 2, 64)}


async def test_a_clip_is_changed_by_a_model_that_takes_clips(tmp_path: Path) -> None:
    async with filming(tmp_path) as (f, requests):
        made = await video(f)
        sent = await clip(f)
        replies = [
            await send(f, VIDEOS, {"prompt": "Snow"}, [("input_reference", ("a.mp4", sent, "video/mp4"))]),
            await send(f, EDITS, {"prompt": "Snow"}, [("video", ("a.mp4", sent, "video/mp4"))]),
            await send(f, EDITS, {"prompt": "Snow", "video[id]": made["id"]}),
            await f.post(EDITS, {"prompt": "Snow", "video": {"id": made["id"]}}),
            await f.post(VIDEOS, {"prompt": "Snow", "input_reference": {"file_id": await output_of(f, made["id"])}}),
        ]
        as_image = await send(f, "/v1/images/edits", {"prompt": "x"}, [("image", ("a.png", sent, "image/png"))])
        wrong = [
            await f.post(EDITS, {"prompt": "Snow", "video": data_url(PICTURE)}),
            await f.post(EDITS, {"prompt": "Snow", "video": {"id": "video_1"}}),
            await f.post(EDITS, {"prompt": "Snow"}),
            await f.post(EDITS, {"prompt": "Snow", "video": {"id": made["id"]}, "model": "animator"}),
        ]

    assert [reply.status_code for reply in replies] == [200] * 5, [reply.text for reply in replies]
    changes = requests[2:]
    assert [(request.model, request.video is not None, request.prompt) for request in changes] == [
        ("reviser", True, "Snow")
    ] * 5
    assert [reply.status_code for reply in wrong] == [400, 404, 400, 400], [reply.text for reply in wrong]
    assert [reply.json()["error"]["param"] for reply in (wrong[0], *wrong[2:])] == ["video"] * 3
    assert (as_image.status_code, as_image.json()["error"]["param"]) == (400, "image")
    assert "Models here that can: reviser." in wrong[3].json()["error"]["message"]


async def test_a_remix_starts_from_what_its_model_takes_and_repeats_the_rest(tmp_path: Path) -> None:
    async with filming(tmp_path) as (f, requests):
        made = [await video(f, model=model, size="64x32") for model in ("filmer", "animator", "reviser")]
        seeds = [(await f.status(each["id"]))["params"]["seed"] for each in made]
        remixes = [(await f.post(f"{VIDEOS}/{each['id']}/remix", {"prompt": "Night"})).json() for each in made]
        await f.settle()
        ends = [(await f.get(f"{VIDEOS}/{each['id']}")).json() for each in remixes]
        of_text, of_picture, of_clip = requests[3:]
        first_frame = await kept(f, of_picture.image)

    assert [each["remixed_from_video_id"] for each in remixes] == [each["id"] for each in made]
    assert [(each["status"], each["remixed_from_video_id"]) for each in ends] == [
        ("completed", each["id"]) for each in made
    ]
    assert [(each["prompt"], each["size"], each["seconds"]) for each in remixes] == [("Night", "64x32", "2.25")] * 3
    assert [request.seed for request in requests[3:]] == seeds
    assert [request.model for request in requests[3:]] == ["filmer", "animator", "reviser"]
    assert (of_text.media, set(of_picture.media), set(of_clip.media)) == ({}, {"image"}, {"video"})
    assert first_frame.size == (64, 32)


async def test_a_remix_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TAKING) as f:
        waiting = (await f.post(VIDEOS, {"prompt": "Waves"})).json()["id"]
        image = await f.submit()
        refused = [
            await f.post(f"{VIDEOS}/{waiting}/remix", {"prompt": "Night"}),
            await f.post(f"{VIDEOS}/{image}/remix", {"prompt": "Night"}),
            await f.post(f"{VIDEOS}/{waiting}/remix", {"prompt": "Night"}, "other"),
            await f.post(f"{VIDEOS}/x/remix", {"prompt": "Night"}),
            await f.post(f"{VIDEOS}/{waiting}/remix", {}),
            await f.post(f"{VIDEOS}/{waiting}/remix", {"prompt": "Night", "seconds": "4"}),
        ]

    assert [reply.status_code for reply in refused] == [404, 404, 404, 404, 400, 400]
    assert "not finished" in refused[0].json()["error"]["message"]


async def test_a_reference_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    async with filming(tmp_path) as (f, requests):
        replies = [
            await send(f, VIDEOS, {"prompt": "x"}, [("input_reference", ("a.png", b"no", "image/png"))]),
            await send(f, VIDEOS, {"prompt": "x", "input_reference": "y"}),
            await send(f, VIDEOS, {"prompt": "x", "input_reference[url]": "y"}),
            await f.post(VIDEOS, {"prompt": "x", "input_reference": {}}),
            await f.post(VIDEOS, {"prompt": "x", "input_reference": ["y"]}),
        ]

    assert [reply.status_code for reply in replies] == [400] * 5, [reply.text for reply in replies]
    assert {reply.json()["error"]["param"] for reply in replies} == {"input_reference"}
    assert requests == []
