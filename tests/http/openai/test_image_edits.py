"""/v1/images/edits and /v1/images/variations: which inputs of which model the pictures of a request become."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.diffusion_interface import DiffusionRequest
from server.accounts.quotas import DEFAULT_PLANS
from server.jobs.request.generate_request import GenerateRequest
from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs
from tests.support.http.picture_doors import TAKING, TEXT_ONLY, accepted, data_url, kept, picture, send

pytestmark = pytest.mark.anyio

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
PICTURE, HOLED = picture(), picture(hole=True)


def part(data: bytes, name: str = "image") -> tuple[str, Any]:
    return name, ("a.png", data, "image/png")


@asynccontextmanager
async def editing(folder: Path) -> AsyncIterator[tuple[Front, list[GenerateRequest]]]:
    async with front(folder, catalogue=TAKING) as f:
        finish_jobs(f)
        yield f, accepted(f)


async def test_a_picture_and_a_prompt_are_an_image_to_image_job(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        fields = {"prompt": "make it night", "n": "2", "seed": "7", "response_format": "b64_json", "stream": "false"}
        reply = await send(f, EDITS, fields, [part(PICTURE)])
        (request,) = requests
        image = await kept(f, request.image)

    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert [Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).format for each in body["data"]] == ["PNG"] * 2
    assert (request.prompt, request.model, request.n, request.seed) == ("make it night", "changer", 2, 7)
    assert (request.strength, request.mask, request.images) == (0.75, None, ())
    assert (request.width, request.height) == (None, None)  # follows the picture
    assert image.size == (48, 32)


async def test_the_lane_gets_the_pictures_of_an_edit(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TAKING) as f:
        replying = asyncio.create_task(send(f, EDITS, {"prompt": "a hat"}, [part(PICTURE), part(HOLED, "mask")]))
        await f.engine.submitted.wait()
        (job,) = f.engine.jobs.values()
        f.engine.run(job.id)
        reply = (await replying).json()

    (request,) = job.requests
    assert isinstance(request, DiffusionRequest)
    assert (request.pipeline, request.strength, reply["size"]) == ("InpaintPipeline", 1.0, "48x32")
    assert request.input_arguments == {"image": "image", "mask": "mask_image"}
    assert request.inputs.image is not None
    assert request.inputs.mask is not None
    assert (request.inputs.image.width, request.inputs.mask.width) == (48, 48)


async def test_a_mask_is_white_where_the_clients_mask_is_transparent(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        reply = await send(f, EDITS, {"prompt": "a hat"}, [part(PICTURE), part(HOLED, "mask")])
        (request,) = requests
        mask = await kept(f, request.mask)

    assert reply.status_code == 200, reply.text
    assert (request.model, request.strength) == ("retoucher", 1.0)
    assert (mask.mode, mask.size) == ("L", (48, 32))
    assert mask.crop((0, 0, 24, 32)).getextrema() == (255, 255)
    assert mask.crop((24, 0, 48, 32)).getextrema() == (0, 0)


async def test_a_transparent_picture_is_its_own_mask_for_a_model_that_takes_one(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        for model in ("retoucher", "changer", "follower"):
            await send(f, EDITS, {"prompt": "fill it", "model": model}, [part(HOLED)])

    assert [request.mask is not None for request in requests] == [True, False, False]
    assert [request.strength for request in requests] == [1.0, 0.75, None]  # the last model takes none


async def test_several_pictures_are_references_in_their_order(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        small, large = picture(16, 16), picture(80, 80)
        reply = await send(f, EDITS, {"prompt": "together"}, [part(large, "image[]"), part(small, "image[]")])
        (request,) = requests
        sizes = [(await kept(f, image)).size for image in request.images]

    assert reply.status_code == 200, reply.text
    assert (request.model, request.image, sizes) == ("follower", None, [(80, 80), (16, 16)])


async def test_the_strength_is_the_requests_or_lower_for_a_faithful_edit(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        for fields in ({"input_fidelity": "high"}, {"input_fidelity": "low"}, {"strength": "0.3"}):
            await send(f, EDITS, {"prompt": "x"} | fields, [part(PICTURE)])
        files = [part(PICTURE), part(HOLED, "mask")]
        await send(f, EDITS, {"prompt": "x", "input_fidelity": "high"}, files)
        unable = await send(f, EDITS, {"prompt": "x", "input_fidelity": "high", "model": "follower"}, [part(PICTURE)])

    assert [request.strength for request in requests] == [0.5, 0.75, 0.3, 0.75, None]
    assert unable.status_code == 200


async def test_a_variation_has_a_picture_and_no_prompt(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        reply = await send(f, VARIATIONS, {"n": "2", "size": "64x64", "response_format": "url"}, [part(PICTURE)])
        (request,) = requests

    assert reply.status_code == 200, reply.text
    assert [set(each) for each in reply.json()["data"]] == [{"url"}] * 2
    assert (request.prompt, request.model, request.strength) == ("", "changer", 0.6)
    assert (request.width, request.height) == (64, 64)
    assert request.image is not None


async def test_pictures_of_json_are_data_urls_files_and_outputs(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, requests):
        uploaded = await f.client.post("/api/files", files=[part(PICTURE, "file")], headers=f.auth("enterprise"))
        output = (await f.complete(model="changer"))["outputs"][0]["fileId"]
        images: list[Any] = [
            {"image_url": data_url(picture(16, 8))},
            {"file_id": uploaded.json()["fileId"], "image_url": None},
            {"file_id": output},
            output,
        ]
        reply = await f.post(EDITS, {"prompt": "together", "images": images})
        sizes = [(await kept(f, image)).size for image in requests[-1].images]
        alone = await f.post(EDITS, {"prompt": "x", "image": data_url(PICTURE), "mask": {"image_url": data_url(HOLED)}})

    assert reply.status_code == 200, reply.text
    assert sizes == [(16, 8), (48, 32), (64, 64), (64, 64)]
    assert alone.status_code == 200, alone.text
    assert (requests[-1].model, requests[-1].mask is not None) == ("retoucher", True)


async def test_open_webuis_form_is_an_edit(tmp_path: Path) -> None:
    """Its `backend/open_webui/routers/images.py` writes forms with aiohttp, and an empty model if none is set there."""
    texts = {"model": "", "prompt": "Käse", "n": "1", "size": "64x64", "response_format": "b64_json"}
    parts = [(name, (None, text, "text/plain; charset=utf-8")) for name, text in texts.items()]
    async with editing(tmp_path) as (f, requests):
        for files in ([part(PICTURE)], [part(PICTURE, "image[]")], [part(PICTURE, "image[]")] * 2):
            reply = await f.client.post(
                f"{EDITS}?api-version=2026-01-01", files=[*parts, *files], headers=f.auth("enterprise")
            )
            assert reply.status_code == 200, reply.text
            assert [set(image) for image in reply.json()["data"]] == [{"b64_json"}]

    assert [(request.model, request.prompt) for request in requests] == [
        ("changer", "Käse"),
        ("changer", "Käse"),
        ("follower", "Käse"),
    ]
    assert {(request.width, request.height) for request in requests} == {(64, 64)}


async def test_an_edit_is_charged_as_an_image_and_a_refused_one_is_not(tmp_path: Path) -> None:
    async with editing(tmp_path) as (f, _):
        edited = await send(f, EDITS, {"prompt": "x", "n": "2"}, [part(PICTURE)], "free")
        refused = await send(f, EDITS, {"prompt": "x"}, [part(b"GIF89a")], "free")
        used = await f.used("images")

    assert edited.headers["x-ratelimit-remaining"] == refused.headers["x-ratelimit-remaining"] == "8"
    assert used == 2


async def test_no_picture_is_decoded_for_a_key_that_may_not_start_a_job(tmp_path: Path) -> None:
    plans = DEFAULT_PLANS | {"free": replace(DEFAULT_PLANS["free"], burst_per_minute=1)}
    async with front(tmp_path, catalogue=TAKING, plans=plans) as f:
        finish_jobs(f)
        replies = [
            await send(f, EDITS, {"prompt": "x"}, [part(data)], "free") for data in (PICTURE, b"no picture", PICTURE)
        ]

    assert [reply.status_code for reply in replies] == [200, 429, 429]
    assert int(replies[1].headers["retry-after"]) > 30


FIELDS = {"prompt": "x"}
REFUSED: list[tuple[str, dict[str, str], list[Any], str, str | None]] = [
    (EDITS, FIELDS, [], "image is required", "image"),
    (EDITS, {}, [part(PICTURE)], "prompt is required", "prompt"),
    (EDITS, FIELDS, [part(PICTURE, "image[]")] * 17, "image is required: 1 to 16", "image"),
    (EDITS, FIELDS, [part(PICTURE), part(PICTURE, "mask")], "mask must be a picture with fully transparent", "mask"),
    (EDITS, FIELDS, [part(PICTURE), part(HOLED, "mask[]")], "mask must be a file", "mask"),
    (EDITS, FIELDS, [part(b"<svg/>")], "image must be a PNG, JPEG or WebP", "image"),
    (EDITS, FIELDS, [part(PICTURE), part(b"BM123456", "mask")], "mask must be a PNG, JPEG or WebP", "mask"),
    (EDITS, FIELDS, [part(PICTURE[:90])], "image must be a PNG, JPEG or WebP picture that can be read", "image"),
    (EDITS, FIELDS | {"image": "file_0000000000000000000000"}, [], "image: there is no such file", "image"),
    (EDITS, FIELDS | {"image": "https://example.com/a.png"}, [], "fetches nothing from the network", "image"),
    (EDITS, FIELDS | {"image": "a"}, [], "image: there is no such file", "image"),
    (EDITS, FIELDS | {"n": "9"}, [part(PICTURE)], "n must be", "n"),
    (EDITS, FIELDS | {"n": "two"}, [part(PICTURE)], "n must be", "n"),
    (EDITS, FIELDS | {"size": "63x64"}, [part(PICTURE)], "width must be a multiple", None),
    (EDITS, FIELDS | {"quality": "high"}, [part(PICTURE)], "quality is not supported", "quality"),
    (EDITS, FIELDS | {"stream": "true"}, [part(PICTURE)], "stream is not supported", "stream"),
    (EDITS, FIELDS | {"input_fidelity": "1"}, [part(PICTURE)], "input_fidelity must be low or high", "input_fidelity"),
    (EDITS, FIELDS | {"colour": "red"}, [part(PICTURE)], "Unknown field colour", "colour"),
    (EDITS, FIELDS, [part(PICTURE), part(PICTURE, "logo")], "Unknown field logo", "logo"),
    (EDITS, FIELDS | {"model": "painter"}, [part(PICTURE)], "Models here that can: changer, retoucher", "image"),
    (EDITS, FIELDS | {"model": "changer"}, [part(PICTURE), part(HOLED, "mask")], "that can: retoucher.", "mask"),
    (EDITS, FIELDS | {"model": "changer"}, [part(PICTURE)] * 2, "Models here that can: follower.", "images"),
    (EDITS, FIELDS | {"model": "follower", "strength": "0.5"}, [part(PICTURE)], "strength: follower", "strength"),
    (VARIATIONS, {"n": "1"}, [], "image is required", "image"),
    (VARIATIONS, FIELDS, [part(PICTURE)], "Unknown field prompt", "prompt"),
    (VARIATIONS, {}, [part(PICTURE)] * 2, "image must be a file", "image"),
]


@pytest.mark.parametrize(("path", "fields", "files", "message", "param"), REFUSED, ids=range(len(REFUSED)))
async def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, path: str, fields: dict[str, str], files: list[Any], message: str, param: str | None
) -> None:
    async with editing(tmp_path) as (f, requests):
        reply = await send(f, path, fields, files)

    assert (reply.status_code, requests) == (400, []), reply.text
    error = reply.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_models_that_take_no_pictures_are_told(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TEXT_ONLY) as f:
        none = await send(f, EDITS, FIELDS, [part(PICTURE)])
        unknown = await send(f, EDITS, FIELDS | {"model": "gpt-image-1"}, [part(PICTURE)])
        used = await f.client.get("/api/files", headers=f.auth("enterprise"))

    assert (none.status_code, none.json()["error"]["message"]) == (
        400,
        "There is no image model here that takes image. GET /api/models says what each takes.",
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert used.json()["files"] == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data", b"--b--\r\n"),
        ("application/json", b"[]"),
        ("application/json", b'{"prompt": "x", "images": [{}]}'),
        ("application/json", b'{"prompt": "x", "images": []}'),
        ("application/json", b'{"prompt": "x", "images": [{"image_url": "data:a", "file_id": "b"}]}'),
        ("application/json", b'{"prompt": "x", "images": [{"image_url": {"url": "data:image/png;base64,"}}]}'),
        ("application/json", b'{"prompt": "x", "image": 3}'),
        ("text/plain", b"x"),
    ],
    ids=range(9),
)
async def test_a_body_that_is_no_edit_is_refused(tmp_path: Path, content_type: str, body: bytes) -> None:
    async with editing(tmp_path) as (f, requests):
        reply = await f.post(EDITS, body, **{"content-type": content_type})

    assert (reply.status_code, requests) == (400, []), reply.text
