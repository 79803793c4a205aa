"""POST /sdapi/v1/txt2img and /sdapi/v1/img2img. Event loop only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.errors import ModelsError
from models.spec import ModelSpec
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.wire import failure
from server.api.read_json import read_json
from server.api.schemas import read_body
from server.api.sdapi.controlnet import read_units
from server.api.sdapi.pictures import add_init_image, add_units
from server.api.sdapi.schema import Image2Image, Text2Image, unused
from server.api.sdapi.settings import settings_of
from server.api.sdapi.translation import Translation, translate
from server.api.wait_for_job import read_base64, wait_for_job
from server.api.wire import JsonObject, errors, json_body
from server.errors import UnknownModel
from server.job import State
from server.jobs.job_view import JobView
from server.jobs.sampler_names import SAMPLER_NAMES
from server.service.service import Service

router = APIRouter()


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images and returns them in base64. `info` lists the fields that were ignored."""
    async with allowance_on_error(request, service, key, ["images"]):
        raw, body = await read_json(await request.body(), lambda raw: (raw, read_body(Text2Image, raw)))
        translation = await translated(service, key, body)
        return await _generate(request, service, key, body, raw, translation)


@router.post("/img2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Image2Image))
async def img2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images from a picture, or repaints the white part of a mask, and returns them in base64. `info` lists
    the fields that were ignored.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        raw, body = await read_json(await request.body(), lambda raw: (raw, read_body(Image2Image, raw)))
        translation = await translated(service, key, body)
        return await _generate(request, service, key, body, raw, translation)


async def translated(service: Service, key: ApiKey, body: Text2Image | Image2Image) -> Translation:
    """The request of a job, with its pictures kept as files. Raises `BadRequest`, `UnknownModel`."""
    options, spec = await settings_of(service, key, body)
    translation = translate(body, options, spec)
    units, ignored = read_units(body.alwayson_scripts, lambda name: _catalogued(service, name))
    wanted, all_ignored = translation.request, translation.ignored | ignored
    if isinstance(body, Image2Image):
        wanted, of_pictures = await add_init_image(service, key, body, wanted, _crops_to_mask(spec))
        all_ignored |= of_pictures
    return Translation(await add_units(service, key, units, wanted) if units else wanted, all_ignored)


def _crops_to_mask(spec: ModelSpec) -> bool:
    return any("mask" in task.inputs and "padding_mask_crop" in task.arguments for task in spec.tasks)


def _catalogued(service: Service, name: str) -> ModelSpec:
    try:
        return service.catalogue.get(name)
    except ModelsError as error:
        raise UnknownModel(error.message) from None


async def _generate(
    request: Request,
    service: Service,
    key: ApiKey,
    body: Text2Image | Image2Image,
    raw: Mapping[str, Any],
    translation: Translation,
) -> Response:
    accepted = await service.submission.accept(key, translation.request)
    view = await wait_for_job(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # the client has disconnected
    if view.status is not State.COMPLETED:
        raise failure(view)
    sent = view.outputs if body.send_images is not False else ()
    images = [await read_base64((await service.jobs.file(output.id, key))[1]) for output in sent]
    ignored = sorted(translation.ignored | unused(raw, type(body).model_fields))
    reply = {"images": images, "parameters": _parameters(body), "info": json.dumps(_info(view, ignored))}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


def _parameters(body: BaseModel) -> JsonObject:
    """The fields of the request, with its pictures only where the client wants them back."""
    hidden = {"alwayson_scripts"}
    if isinstance(body, Image2Image) and not body.include_init_images:
        hidden |= {"init_images", "mask"}
    return body.model_dump(exclude=hidden) | dict.fromkeys(hidden)


def _info(view: JobView, ignored: list[str]) -> JsonObject:
    seeds = [output.seed for output in view.outputs]
    return {
        "prompt": view.prompt,
        "negative_prompt": view.params["negativePrompt"] or "",
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": view.params["width"],
        "height": view.params["height"],
        "steps": view.params["steps"],
        "cfg_scale": view.params["guidanceScale"],
        "sampler_name": SAMPLER_NAMES.get(view.params["scheduler"], view.params["scheduler"]),
        "clip_skip": (view.params["clipSkip"] or 0) + 1,
        "loras": view.params["loras"],
        "denoising_strength": view.params.get("strength"),
        "sd_model_name": view.model,
        "batch_size": len(seeds),
        "ignored": ignored,
        "warnings": list(view.warnings),
    }
