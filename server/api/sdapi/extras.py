"""POST /sdapi/v1/extra-single-image and extra-batch-images: make pictures larger. Event loop only.

"Lanczos" and "Nearest" resize at once. An upscaler model is an image job like any other, charged as one image.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import APIRouter
from PIL import Image
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipelines.diffusion_interface import MediaFile
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error, release_body
from server.api.schemas import read_body
from server.api.sdapi.jobs import run_jobs
from server.api.sdapi.lists import adapters
from server.api.sdapi.pictures import add_picture
from server.api.sdapi.resizing import RESIZERS, cropped, png, resized
from server.api.sdapi.schema import BASE64, MAX_IMAGES, Base64, Tolerant
from server.api.shared.form_fields import read_fields
from server.api.wait_for_job import read_base64
from server.api.wire import JsonObject, errors, json_body
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest, Media
from server.service.picture_work import work_on
from server.service.service import Service
from server.store.input_files import InputFileRow

router = APIRouter()

NO_UPSCALER = "None"
MAX_PIXELS = 4096 * 4096  # of a result
MAX_SIDE = 16384
PIXELS = f"a whole number of pixels, at most {MAX_SIDE}"
TO_SIZE = 1  # resize_mode
DEFAULT_SCALE, DEFAULT_SIDE = 2.0, 512
VISIBLE = ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility")  # ignored where above 0


class Extras(Tolerant):
    upscaler_1: str | None = Field(None, max_length=200, description="a name from GET /sdapi/v1/upscalers")
    resize_mode: int | None = Field(None, ge=0, le=1, description="0 (by a factor) or 1 (to a size)")
    upscaling_resize: float | None = Field(None, gt=0, le=16, description="a factor above 0 and at most 16")
    upscaling_resize_w: int | None = Field(
        None, ge=1, le=MAX_SIDE, description=f"a whole number of pixels to {MAX_SIDE}"
    )
    upscaling_resize_h: int | None = Field(
        None, ge=1, le=MAX_SIDE, description=f"a whole number of pixels to {MAX_SIDE}"
    )
    upscaling_crop: bool | None = Field(None, description="true or false: a result of a size has no more than it")
    gfpgan_visibility: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1; ignored")
    codeformer_visibility: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1; ignored")
    extras_upscaler_2_visibility: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1; ignored")


class SingleImage(Extras):
    image: Base64


class File(Tolerant):
    data: Base64


class BatchImages(Extras):
    imageList: list[File] = Field(
        min_length=1,
        max_length=MAX_IMAGES,
        description=f'a list of 1 to {MAX_IMAGES} objects like {{"data": IMAGE, "name": TEXT}}, IMAGE being {BASE64}',
    )


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    whole: tuple[int, int]  # to which the picture is made larger
    part: tuple[int, int] | None  # in its middle, which is the result; None: all of it


@router.post("/extra-single-image", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(SingleImage))
async def extra_single_image(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Makes a picture larger and returns it in base64. `html_info` names the fields that were ignored."""
    async with allowance_on_error(request, service, key, ["images"]):
        settings, rows = await _kept(service, key, read_body(SingleImage, await read_fields(request)))
        return await _reply(request, service, key, settings, rows, lambda images: {"image": images[0]})


@router.post("/extra-batch-images", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(BatchImages))
async def extra_batch_images(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Makes several pictures larger, with the same settings, and returns them in base64."""
    async with allowance_on_error(request, service, key, ["images"]):
        settings, rows = await _kept(service, key, read_body(BatchImages, await read_fields(request)))
        return await _reply(request, service, key, settings, rows, lambda images: {"images": images})


async def _kept(service: Service, key: ApiKey, body: SingleImage | BatchImages) -> tuple[Extras, list[InputFileRow]]:
    """Returns the settings, and the pictures as files, so that nothing of the large body is held any more."""
    if body.upscaler_1 not in (None, "", NO_UPSCALER, *RESIZERS, *adapters(service, "upscaler")):
        raise BadRequest("upscaler_1 must be a name from GET /sdapi/v1/upscalers.")
    if isinstance(body, SingleImage):
        pictures = {"image": body.image}
    else:
        pictures = {f"imageList[{i}].data": file.data for i, file in enumerate(body.imageList)}
    rows = [await add_picture(service, key, text, place) for place, text in pictures.items()]
    return Extras(**body.model_dump(include=set(Extras.model_fields))), rows


async def _reply(
    request: Request,
    service: Service,
    key: ApiKey,
    settings: Extras,
    rows: Sequence[InputFileRow],
    shape: Callable[[list[str]], JsonObject],
) -> Response:
    """shape: returns the field of the reply for the results, which are in base64."""
    release_body(request)
    upscaler = settings.upscaler_1 or NO_UPSCALER
    files = [service.input_files.media_file(row) for row in rows]
    images: list[str] | None
    if upscaler == NO_UPSCALER:
        images = [await read_base64(Path(file.path)) for file in files]
    elif upscaler in RESIZERS:
        images = [
            await _in_base64(partial(resized, file.path, size.whole, upscaler, size.part))
            for file, size in [(file, _size(settings, file)) for file in files]
        ]
    else:
        sizes = [_size(settings, file) for file in files]
        images = await _by_model(request, service, key, upscaler, [row.id for row in rows], sizes)
    if images is None:
        return Response(status_code=204)  # the client has disconnected
    ignored = [name for name in VISIBLE if getattr(settings, name)]
    reply = shape(images) | {"html_info": f"<p>Ignored: {', '.join(ignored)}</p>" if ignored else ""}
    return JSONResponse(reply, headers=allowance_headers(service, await service.accounts.allowance(key, "images")))


def _size(settings: Extras, file: MediaFile) -> Size:
    """Raises `BadRequest` for a result that is too large."""
    scale, part = settings.upscaling_resize or DEFAULT_SCALE, None
    if settings.resize_mode == TO_SIZE:
        part = settings.upscaling_resize_w or DEFAULT_SIDE, settings.upscaling_resize_h or DEFAULT_SIDE
        scale = max(part[0] / file.width, part[1] / file.height)
    whole = max(1, round(file.width * scale)), max(1, round(file.height * scale))
    if max(whole) > MAX_SIDE or whole[0] * whole[1] > MAX_PIXELS:
        field = "upscaling_resize" if part is None else "upscaling_resize_w and upscaling_resize_h"
        raise BadRequest(
            f"{field}: the result would have {whole[0]}x{whole[1]} pixels. It may have {MAX_SIDE} pixels a side and "
            f"{MAX_PIXELS} altogether."
        )
    return Size(whole, part if settings.upscaling_crop is not False and part != whole else None)


async def _by_model(
    request: Request, service: Service, key: ApiKey, upscaler: str, pictures: Sequence[Media], sizes: Sequence[Size]
) -> list[str] | None:
    """Returns the results in base64, or None when the client has disconnected."""
    wanted = [
        GenerateRequest(
            type="image", prompt="", model=upscaler, image=picture, width=size.whole[0], height=size.whole[1]
        )
        for picture, size in zip(pictures, sizes, strict=True)
    ]
    views = await run_jobs(service, key, wanted, request.receive)
    if views is None:
        return None
    paths = [(await service.jobs.file(view.outputs[0].id, key))[1] for view in views]
    return [
        await (read_base64(path) if size.part is None else _in_base64(_cut(path, size.part)))
        for path, size in zip(paths, sizes, strict=True)
    ]


def _cut(path: Path, part: tuple[int, int]) -> Callable[[], bytes]:
    def work() -> bytes:
        with Image.open(path) as image:
            return png(cropped(image, part))

    return work


async def _in_base64(work: Callable[[], bytes]) -> str:
    return await work_on(lambda: base64.b64encode(work()).decode())
