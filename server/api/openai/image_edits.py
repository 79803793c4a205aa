"""/v1/images/edits and /v1/images/variations: image jobs that start from pictures. Event loop only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_on_error, release_body
from server.api.openai.image_reply import image_reply
from server.api.openai.image_schema import TYPED, ImageEdit, ImageVariation, ResponseFormat, read_edit, read_variation
from server.api.openai.picture_fields import (
    MAX_IMAGES,
    REFERENCE,
    Picture,
    keep,
    picture_body,
    take_images,
    take_picture,
)
from server.api.openai.wire import errors
from server.api.shared.form_fields import read_fields
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.submission import Accepted
from server.service.picture_inputs import Inputs, choose_way, ways_to_take, with_strength
from server.service.service import Service
from server.service.transparency import mask_of_transparency

router = APIRouter(tags=["OpenAI"])

# How much of a picture is made anew when the request has no `strength`, by whether there is a mask: what a mask covers
# is replaced, a picture without one is changed.
USUAL_STRENGTHS = {False: 0.75, True: 1.0}
FAITHFUL_STRENGTHS = {False: 0.5, True: 0.75}  # `input_fidelity` is high
VARIATION_STRENGTHS = {False: 0.6}
OPAQUE_MASK = "mask must be a picture with fully transparent areas: they are what is edited."
IMAGE = "the picture to start from"
IMAGES = f"1 to {MAX_IMAGES} pictures; in JSON also called images, in a form also image[]"
MASK = "a picture whose fully transparent areas are edited in the first image"


@router.post(
    "/v1/images/edits",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=picture_body(
        ImageEdit,
        is_list=True,
        image=IMAGES,
        mask=MASK,
    ),
)
async def edits(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Changes pictures as a prompt says, and returns the results as `POST /v1/images/generations` does. The body is a
    form with 1 to 16 files `image` or `image[]`, and possibly a `mask`, or JSON with `images`.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        accepted, response_format = await _edit(service, key, await read_fields(request, TYPED))
    release_body(request)
    return await image_reply(request, service, key, accepted, response_format)


@router.post(
    "/v1/images/variations",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=picture_body(ImageVariation, image=IMAGE),
)
async def variations(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Makes pictures that resemble one, without a prompt, and returns them as `POST /v1/images/generations` does. The
    body is a form with a file `image`, or JSON.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        accepted, response_format = await _vary(service, key, await read_fields(request, TYPED))
    release_body(request)
    return await image_reply(request, service, key, accepted, response_format)


async def _edit(service: Service, key: ApiKey, fields: dict[str, Any]) -> tuple[Accepted, ResponseFormat | None]:
    images, mask = take_images(fields), take_picture(fields, "mask")
    wanted, response_format, is_faithful = read_edit(fields)
    _check_model(service, wanted)
    ways = await _ways(service, key, images, mask)
    strengths = FAITHFUL_STRENGTHS if is_faithful else USUAL_STRENGTHS
    return await _accept(service, key, wanted, ways, strengths), response_format


async def _vary(service: Service, key: ApiKey, fields: dict[str, Any]) -> tuple[Accepted, ResponseFormat | None]:
    image = take_picture(fields, "image")
    if image is None:
        raise BadRequest(f"image is required: {REFERENCE}.", param="image")
    wanted, response_format = read_variation(fields)
    _check_model(service, wanted)
    rows = await keep(service, key, {"image": image})
    ways = ways_to_take([rows["image"].id])
    return await _accept(service, key, wanted, ways, VARIATION_STRENGTHS), response_format


def _check_model(service: Service, wanted: GenerateRequest) -> None:
    """Before any file is kept. Raises `UnknownModel`, `BadRequest`."""
    if wanted.model is not None:
        service.limits.model(wanted.model, "image")


async def _accept(
    service: Service, key: ApiKey, wanted: GenerateRequest, ways: Sequence[Inputs], strengths: Mapping[bool, float]
) -> Accepted:
    request, task = choose_way(service.limits, service.catalogue, wanted, ways)
    default_steps = service.limits.model(request.model, "image").defaults.steps
    strength = strengths[request.mask is not None]
    return await service.submission.accept(key, with_strength(request, task, strength, default_steps))


async def _ways(service: Service, key: ApiKey, images: Sequence[Picture], mask: Picture | None) -> list[Inputs]:
    """A picture that is sent alone, and transparent in a part, is its own mask for models that take one."""
    places = ["image"] if len(images) == 1 else [f"image[{i}]" for i in range(len(images))]
    rows = await keep(service, key, dict(zip(places, images, strict=True)) | ({} if mask is None else {"mask": mask}))
    kept = [rows[place].id for place in places]
    masking = rows["mask"] if mask is not None else rows["image"] if len(images) == 1 else None
    white = None
    if masking is not None:
        white = await mask_of_transparency(service.input_files, key, service.input_files.media_file(masking))
    if mask is not None and white is None:
        raise BadRequest(OPAQUE_MASK, param="mask")
    return [*ways_to_take(kept, white), *(ways_to_take(kept) if white is not None and mask is None else ())]
