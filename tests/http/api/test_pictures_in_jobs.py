"""POST /api/generate with pictures: files, outputs and data URLs, which are there as long as a job needs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.accounts.quotas import DEFAULT_PLANS
from tests.support.http.front import IMAGE, Front
from tests.support.http.input_files import JPEG, PNG, editing, files_on_disk, upload, uploaded
from tests.support.http.picture_doors import data_url
from tests.support.http.web_site import reply_of, web
from tests.support.odd_files.case import encoded, sample

pytestmark = pytest.mark.anyio

UNKNOWN = (
    "image: there is no such file. Send a file id from POST /api/files, the id of an output of one of your jobs, or a "
    "data URL."
)


async def generate(f: Front, key: str = "enterprise", **body: Any) -> Any:
    return await f.post("/api/generate", IMAGE | body, key)


def input_of(f: Front, job_id: str) -> Any:
    """The picture that the engine was given for a job."""
    [job] = [job for job in f.engine.jobs.values() if job.id == job_id]
    return job.requests[0].inputs.image


def exists(f: Front, job_id: str) -> bool:
    return Path(input_of(f, job_id).path).exists()


async def tidy_after(f: Front, **time: float) -> list[str]:
    f.clock.forward(**time)
    await f.service.recovery.tidy()
    return files_on_disk(f)


async def test_a_picture_can_be_a_file_an_output_or_a_data_url(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        [output] = (await f.complete())["outputs"]
        file_id = await uploaded(f, PNG)
        jobs = [await f.submit(image=image) for image in (file_id, output["fileId"], output["url"], data_url(PNG))]
        of_file, of_output, of_address, of_data = (input_of(f, job) for job in jobs)
        listed = (await f.get("/api/files")).json()["files"]
        shown = [(await f.status(job))["params"]["inputs"]["image"].get("fileId") for job in jobs]

        assert shown == [file_id, output["fileId"], output["fileId"], None]
        assert (of_file.width, of_file.height, of_output.width) == (64, 48, 64)
        assert of_data == of_file
        assert of_address == of_output
        assert of_output.sha256 == output["sha256"]
        assert [file["fileId"] for file in listed] == [file_id]
        assert len(files_on_disk(f)) == 2


async def test_files_that_a_key_does_not_have_are_one_and_the_same_400(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        mine = await uploaded(f, PNG)
        deleted = await uploaded(f, JPEG)
        await f.delete(f"/api/files/{deleted}")
        [output] = (await f.complete())["outputs"]
        replies = [
            await generate(f, "other", image=mine),
            await generate(f, "other", image=output["fileId"]),
            *[
                await generate(f, image=text)
                for text in (deleted, "file_" + "0" * 22, "0" * 22, "cat.png", "file:///a")
            ],
        ]
        f.clock.forward(hours=25)
        await f.service.recovery.tidy()
        replies += [await generate(f, image=mine), await generate(f, image=output["fileId"])]

    assert {(reply.status_code, reply.json()["error"]) for reply in replies} == {(400, UNKNOWN)}


async def test_outputs_that_are_no_picture_and_no_clip_are_refused_with_the_reason(tmp_path: Path) -> None:
    video = {"type": "video", "prompt": "waves"}
    async with editing(tmp_path) as f:
        outputs = [(await f.complete(**video, output_format=fmt))["outputs"][0] for fmt in ("gif", "frames", "mp4")]
        gif, frames, mp4 = [await generate(f, image=output["fileId"]) for output in outputs]

    assert (gif.status_code, frames.status_code, mp4.status_code) == (400, 400, 400)
    assert "an output of the type image/gif, which cannot be an input" in gif.text
    assert "an output of the type application/zip" in frames.text
    assert mp4.json()["error"] == "image must be a picture, and not a clip."


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("data:image/png;base64,####", "image must be a data URL with the base64 of a file, without other characters."),
        ("data:image/png;base64,", "image must be a PNG, JPEG or WebP picture, or an MP4 or WebM clip."),
        (data_url(b"GIF89a"), "image must be a PNG, JPEG or WebP picture, or an MP4 or WebM clip."),
        (data_url(PNG[:60]), "image must be a PNG, JPEG or WebP picture that can be read and is not damaged."),
        ("data:image/png,abc", UNKNOWN),
        ("https://example.org/cat.png", "this server fetches nothing from the network"),
        ("", "image must be a picture"),
        ("a\0b", "image must be a picture"),
    ],
)
async def test_what_is_no_picture_is_refused_by_the_name_of_its_field(tmp_path: Path, text: str, error: str) -> None:
    async with editing(tmp_path) as f:
        reply = await generate(f, "free", image=text)
        used = await f.used("images")

    assert reply.status_code == 400
    assert error in reply.json()["error"]
    assert used == 0


async def test_a_job_keeps_its_file_until_it_has_ended(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        job = await f.submit(image=await uploaded(f, PNG))
        while_queued = await tidy_after(f, hours=25)
        f.engine.run(job)
        await f.settle()
        afterwards = await tidy_after(f, seconds=1)

    assert (len(while_queued), afterwards) == (1, [])


async def test_a_deleted_file_stays_for_the_job_that_was_accepted_with_it(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        file_id = await uploaded(f, PNG)
        job = await f.submit(image=file_id)
        deleted = await f.delete(f"/api/files/{file_id}")
        read, used_again = await f.get(f"/api/files/{file_id}"), await generate(f, image=file_id)
        is_there = exists(f, job)
        f.engine.run(job)
        await f.settle()
        afterwards = await tidy_after(f, seconds=1)

    assert deleted.json() == {"fileId": file_id, "deleted": True}
    assert (read.status_code, used_again.status_code) == (404, 400)
    assert is_there
    assert afterwards == []


async def test_a_file_that_came_with_a_request_goes_with_its_job(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        job = await f.submit(image=data_url(PNG))
        listed = (await f.get("/api/files")).json()
        while_queued = await tidy_after(f, hours=1)
        f.engine.run(job)
        await f.settle()
        afterwards = await tidy_after(f, seconds=1)

    assert listed["files"] == []
    assert listed["usedBytes"] > 0
    assert (len(while_queued), afterwards) == (1, [])


async def test_the_file_of_a_request_that_is_refused_goes_after_minutes(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        refused = await generate(f, image=data_url(PNG), steps=1000)
        soon, later = await tidy_after(f, minutes=9), await tidy_after(f, minutes=2)

    assert refused.status_code == 400
    assert (len(soon), later) == (1, [])


async def test_a_file_that_came_with_a_request_is_listed_once_it_is_uploaded(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        await f.submit(image=data_url(PNG))
        file_id = await uploaded(f, PNG)
        listed = (await f.get("/api/files")).json()["files"]

    assert [file["fileId"] for file in listed] == [file_id]


async def test_a_queued_job_does_not_miss_the_output_it_starts_from(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        done = await f.complete()
        job = await f.submit(image=done["outputs"][0]["fileId"])
        await f.delete(f"/api/jobs/{done['jobId']}")

        assert not list((f.data_dir / "outputs").iterdir())
        assert exists(f, job)


async def test_a_restart_submits_the_job_with_its_file(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        job, keys = await f.submit(image=data_url(PNG)), f.keys
        before = input_of(f, job)
    async with editing(tmp_path, keys=keys) as f:
        f.clock.forward(hours=25)
        await f.service.recovery.recover()
        await f.service.recovery.tidy()

        assert input_of(f, job) == before
        assert exists(f, job)


async def test_what_was_left_out_of_a_file_is_a_warning_of_the_job(tmp_path: Path) -> None:
    frames = [sample(size=(64, 48)), sample(size=(64, 48)).rotate(180)]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    async with editing(tmp_path) as f:
        done = await f.complete(image=data_url(animated))

    assert "An animated picture was sent. Its first frame is used." in done["warnings"]


async def test_a_repeated_request_is_known_by_the_contents_of_its_pictures(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        again = {"Idempotency-Key": "once"}
        body = IMAGE | {"image": data_url(PNG)}
        first = await f.post("/api/generate", body, **again)
        same = await f.post("/api/generate", body | {"image": await uploaded(f, PNG)}, **again)
        other = await f.post("/api/generate", body | {"image": data_url(JPEG)}, **again)

    assert first.json()["jobId"] == same.json()["jobId"]
    assert other.status_code == 409


async def test_a_large_body_is_for_pictures_alone(tmp_path: Path) -> None:
    picture = data_url(PNG + bytes(1 << 20))
    async with editing(tmp_path) as f:
        with_picture = await generate(f, image=picture)
        text, unknown = await generate(f, prompt="x" * 70_000), await generate(f, pciture=picture)

    assert (with_picture.status_code, text.status_code, unknown.status_code) == (200, 413, 413)
    assert "64 KiB, the limit of an image or video job without pictures" in text.text


@pytest.mark.slow
async def test_a_picture_in_a_request_may_have_32_mib_and_no_more(tmp_path: Path) -> None:
    zeros = bytes(32 * 2**20 - len(PNG))
    async with editing(tmp_path) as f:
        largest, larger = (
            await generate(f, image=data_url(PNG + zeros)),
            await generate(f, image=data_url(PNG + zeros + b"\0")),
        )
        two = await generate(f, image=data_url(PNG + zeros), mask=data_url(JPEG + zeros))

    assert (largest.status_code, larger.status_code, two.status_code) == (200, 413, 413)
    assert larger.json()["error"] == "image may have at most 32 MiB."
    assert "64 MiB, the limit of this address" in two.text


async def test_a_picture_is_fetched_where_the_operator_allows_it(tmp_path: Path) -> None:
    async with web() as site, editing(tmp_path, fetch_images=True, image_networks=("127.0.0.0/8",)) as f:
        site.replies |= {"/cat.png": reply_of(PNG), "/page": reply_of(b"<html>")}
        found, page = await generate(f, image=site.url("/cat.png")), await generate(f, image=site.url("/page"))
        missing, inside = (
            await generate(f, image=site.url("/missing")),
            await generate(f, image="http://10.0.0.1/cat.png"),
        )

    assert found.status_code == 200
    assert {reply.status_code for reply in (page, missing, inside)} == {400}
    assert "image must be a PNG" in page.text
    assert "image: the file could not be fetched: its server answered with the status 404" in missing.text
    assert "image must be an address outside this server's own network" in inside.text


async def test_a_key_that_may_not_start_a_job_has_nothing_decoded(tmp_path: Path) -> None:
    async with editing(tmp_path, max_queued_per_key=1) as f:
        await f.submit()
        reply = await generate(f, image=data_url(PNG))

        assert reply.status_code == 429
        assert files_on_disk(f) == []


async def test_the_same_picture_in_many_requests_at_once_is_kept_once(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        replies = await asyncio.gather(*(generate(f, image=data_url(PNG)) for _ in range(8)))

        assert {reply.status_code for reply in replies} == {200}
        assert len(files_on_disk(f)) == 1


async def test_other_fields_than_pictures_are_not_read_as_such(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        reply = await upload(f, data_url(PNG).encode())

    assert reply.status_code == 400


async def test_no_more_jobs_are_accepted_while_the_pictures_of_others_are_decoded(tmp_path: Path) -> None:
    pictures = [encoded(sample(size=(16, 16 + 8 * n)), "PNG") for n in range(6)]
    async with editing(tmp_path, max_queued_per_key=2) as f:
        replies = await asyncio.gather(*(generate(f, image=data_url(picture)) for picture in pictures))

    assert sorted(reply.status_code for reply in replies) == [200] * 2 + [429] * 4


async def test_a_job_with_a_picture_counts_as_one_request_of_the_minute(tmp_path: Path) -> None:
    plans = DEFAULT_PLANS | {"free": replace(DEFAULT_PLANS["free"], burst_per_minute=2)}
    async with editing(tmp_path, plans=plans) as f:
        replies = [await generate(f, "free", image=data_url(PNG)) for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200, 200, 429]


async def test_a_picture_for_a_model_that_takes_none_is_not_decoded(tmp_path: Path) -> None:
    async with editing(tmp_path) as f:
        reply = await generate(f, type="video", last_image=data_url(PNG))

        assert reply.status_code == 400
        assert files_on_disk(f) == []
