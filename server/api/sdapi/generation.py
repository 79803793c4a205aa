"""POST /sdapi/v1/txt2img and /sdapi/v1/img2img. Event loop only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from models.errors import ModelsError
from models.spec import ModelSpec
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.read_json import read_json
from server.api.schemas import read_body
from server.api.sdapi.controlnet import read_units
from server.api.sdapi.jobs import run_jobs
from server.api.sdapi.lists import adapters
from server.api.sdapi.pictures import add_init_image, add_units
from server.api.sdapi.schema import Image2Image, Text2Image, unused
from server.api.sdapi.second_pass import first_pass, has_second_pass, second_pass
from server.api.sdapi.settings import settings_of
from server.api.sdapi.translation import translate
from server.api.wait_for_job import read_base64
from server.api.wire import JsonObject, errors, json_body
from server.errors import UnknownModel
from server.jobs.job_view import JobView
from server.jobs.request import GenerateRequest
from server.jobs.sampler_names import SAMPLER_NAMES
from server.service.service import Service

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Made:
    """The jobs whose images are the reply, and the names of the fields that were ignored."""

    views: list[JobView]
    ignored: frozenset[str]


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images and returns them in base64. `info` lists the fields that were ignored. With `enable_hr`, each
    image is made larger and changed by the model once more, and counts twice.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        raw, body = await read_json(await request.body(), lambda raw: (raw, read_body(Text2Image, raw)))
        made = await _from_text(service, key, body, request.receive)
        return await _reply(service, key, body, raw, made)


@router.post("/img2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Image2Image))
async def img2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images from a picture, or repaints the white part of a mask, and returns them in base64. `info` lists
    the fields that were ignored.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        raw, body = await read_json(await request.body(), lambda raw: (raw, read_body(Image2Image, raw)))
        made = await _from_picture(service, key, body, request.receive)
        return await _reply(service, key, body, raw, made)


async def _from_text(service: Service, key: ApiKey, body: Text2Image, receive: Receive) -> Made | None:
    options, spec = await settings_of(service, key, body)
    translation = translate(body, options, spec)
    wanted, of_units = await _with_units(service, key, body, translation.request)
    ignored = translation.ignored | of_units
    if not has_second_pass(body, spec):
        views = await run_jobs(service, key, [wanted], receive)
        return None if views is None else Made(views, ignored | ({"enable_hr"} if body.enable_hr else frozenset()))
    first, of_upscaler = first_pass(body, wanted, adapters(service, "upscaler"))
    views = await run_jobs(service, key, [first], receive)
    if views is not None:
        views = await run_jobs(service, key, second_pass(body, wanted, views[0], spec), receive)
    return None if views is None else Made(views, ignored | of_upscaler)


async def _from_picture(service: Service, key: ApiKey, body: Image2Image, receive: Receive) -> Made | None:
    options, spec = await settings_of(service, key, body)
    translation = translate(body, options, spec)
    wanted, of_picture = await add_init_image(service, key, body, translation.request, spec)
    wanted, of_units = await _with_units(service, key, body, wanted)
    views = await run_jobs(service, key, [wanted], receive)
    return None if views is None else Made(views, translation.ignored | of_picture | of_units)


async def _with_units(
    service: Service, key: ApiKey, body: Text2Image | Image2Image, request: GenerateRequest
) -> tuple[GenerateRequest, frozenset[str]]:
    """Returns the request with its ControlNets, and the names of the scripts and fields that are ignored."""
    units, ignored = read_units(body.alwayson_scripts, lambda name: _catalogued(service, name))
    return await add_units(service, key, units, request) if units else request, ignored


def _catalogued(service: Service, name: str) -> ModelSpec:
    try:
        return service.catalogue.get(name)
    except ModelsError as error:
        raise UnknownModel(error.message) from None


async def _reply(
    service: Service, key: ApiKey, body: Text2Image | Image2Image, raw: Mapping[str, Any], made: Made | None
) -> Response:
    """made: None when the client has disconnected."""
    if made is None:
        return Response(status_code=204)
    outputs = [output for view in made.views for output in view.outputs]
    sent = outputs if body.send_images is not False else []
    images = [await read_base64((await service.jobs.file(output.id, key))[1]) for output in sent]
    second_pass = isinstance(body, Text2Image) and bool(body.enable_hr)
    ignored = sorted(made.ignored | unused(raw, type(body).model_fields, second_pass=second_pass))
    reply = {"images": images, "parameters": _parameters(body), "info": json.dumps(_info(made.views, ignored))}
    return JSONResponse(reply, headers=allowance_headers(service, await service.accounts.allowance(key, "images")))


def _parameters(body: BaseModel) -> JsonObject:
    """The fields of the request, with its pictures only where the client wants them back."""
    hidden = {"alwayson_scripts"}
    if isinstance(body, Image2Image) and not body.include_init_images:
        hidden |= {"init_images", "mask"}
    return body.model_dump(exclude=hidden) | dict.fromkeys(hidden)


def _info(views: Sequence[JobView], ignored: list[str]) -> JsonObject:
    view, seeds = views[0], [output.seed for view in views for output in view.outputs]
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
        "warnings": list(dict.fromkeys(warning for view in views for warning in view.warnings)),
    }
