"""POST /sdapi/v1/txt2img and /sdapi/v1/img2img. Event loop only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.errors import ModelsError
from models.spec import ModelSpec
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error, release_body
from server.api.schemas import read_body
from server.api.sdapi.controlnet import read_units
from server.api.sdapi.jobs import run_jobs
from server.api.sdapi.lists import adapters
from server.api.sdapi.pictures import add_init_image, add_units
from server.api.sdapi.schema import Image2Image, Text2Image, unused
from server.api.sdapi.second_pass import first_pass, has_second_pass, second_pass
from server.api.sdapi.settings import settings_of
from server.api.sdapi.translation import translate
from server.api.shared.form_fields import read_fields
from server.api.wait_for_job import read_base64
from server.api.wire import JsonObject, errors, json_body
from server.errors import UnknownModel
from server.jobs.job_view import JobView
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.sampler_names import SAMPLER_NAMES
from server.service.service import Service

router = APIRouter()

Fields = TypeVar("Fields", Text2Image, Image2Image)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose pictures are kept as files, so that nothing of its large body is held while the model runs."""

    wanted: GenerateRequest
    ignored: frozenset[str]  # names of fields
    parameters: JsonObject  # of the reply
    second_pass: Callable[[JobView], list[GenerateRequest]] | None = None  # the requests that follow the first job


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images and returns them in base64. `info` lists the fields that were ignored. With `enable_hr`, each
    image is made larger and changed by the model once more, and counts twice.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        prepared = await _from_text(service, key, *await _read(request, Text2Image))
        release_body(request)
        return await _generate(request, service, key, prepared)


@router.post("/img2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Image2Image))
async def img2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images from a picture, or repaints the white part of a mask, and returns them in base64. `info` lists
    the fields that were ignored.
    """
    async with allowance_on_error(request, service, key, ["images"]):
        prepared = await _from_picture(service, key, *await _read(request, Image2Image))
        release_body(request)
        return await _generate(request, service, key, prepared)


async def _read(request: Request, model: type[Fields]) -> tuple[Fields, frozenset[str]]:
    """Returns the body, and the names of fields that ask for something that is not done."""
    raw = await read_fields(request)
    body = read_body(model, raw)
    second_pass = isinstance(body, Text2Image) and bool(body.enable_hr)
    return body, unused(raw, model.model_fields, second_pass=second_pass)


async def _from_text(service: Service, key: ApiKey, body: Text2Image, ignored: frozenset[str]) -> Prepared:
    options, spec = await settings_of(service, key, body)
    translation = translate(body, options, spec)
    wanted, of_units = await _with_units(service, key, body, translation.request)
    ignored |= translation.ignored | of_units
    if not has_second_pass(body, spec):
        return Prepared(wanted, ignored | ({"enable_hr"} if body.enable_hr else set()), _parameters(body))
    first, of_upscaler = first_pass(body, wanted, adapters(service, "upscaler"))
    passes = body.model_copy(update={"alwayson_scripts": None})
    return Prepared(first, ignored | of_upscaler, _parameters(body), lambda job: second_pass(passes, wanted, job, spec))


async def _from_picture(service: Service, key: ApiKey, body: Image2Image, ignored: frozenset[str]) -> Prepared:
    options, spec = await settings_of(service, key, body)
    translation = translate(body, options, spec)
    wanted, of_picture = await add_init_image(service, key, body, translation.request, spec)
    wanted, of_units = await _with_units(service, key, body, wanted)
    return Prepared(wanted, ignored | translation.ignored | of_picture | of_units, _parameters(body))


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


async def _generate(request: Request, service: Service, key: ApiKey, prepared: Prepared) -> Response:
    views = await run_jobs(service, key, [prepared.wanted], request.receive)
    if views is not None and prepared.second_pass is not None:
        views = await run_jobs(service, key, prepared.second_pass(views[0]), request.receive)
    if views is None:
        return Response(status_code=204)  # the client has disconnected
    outputs = [output for view in views for output in view.outputs]
    sent = outputs if prepared.parameters["send_images"] is not False else []
    images = [await read_base64((await service.jobs.file(output.id, key))[1]) for output in sent]
    info = json.dumps(_info(views, sorted(prepared.ignored)))
    reply = {"images": images, "parameters": prepared.parameters, "info": info}
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
