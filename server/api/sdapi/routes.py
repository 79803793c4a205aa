"""The routes of AUTOMATIC1111's API that clients such as Open WebUI use to generate images. Event loop only.

Under /sdapi the key may also be the password of Basic authentication, because these clients can send nothing else.
AUTOMATIC1111 runs one job at a time for everybody. Here, `progress` and `interrupt` refer to the latest job of the key,
and `options` are stored per key.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.wire import failure
from server.api.schemas import Strict, read_body, read_object
from server.api.sdapi.txt2img import Text2Image, Translation, translate
from server.api.wait_for_job import read_base64, wait_for_job
from server.api.wire import JsonObject, errors, json_body, timestamp
from server.errors import BadRequest
from server.job import State
from server.jobs.encoding import jpeg
from server.jobs.job_view import JobView
from server.jobs.metadata import NOT_IN_TAGS
from server.jobs.sampler_names import SAMPLER_NAMES, SAMPLERS
from server.service.service import Service

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])

LIVE = (State.PROCESSING, State.QUEUED)  # a running job counts before a waiting one
EMPTY: tuple[Any, ...] = (None, "", False, [], {})  # a field with one of these values requests nothing


class Options(Strict):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    sd_model_checkpoint: str | None = Field(
        None, min_length=1, max_length=64, description="the title of a model from sd-models"
    )
    CLIP_stop_at_last_layers: int | None = Field(None, ge=1, le=101, description="a whole number from 1 to 101")


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images and returns them in base64. `info` lists the fields that were ignored."""
    async with allowance_on_error(request, service, key, ["images"]):
        raw = read_object(await request.body())
        body = read_body(Text2Image, raw)
        translation = await _translate(service, key, body)
        accepted = await service.submission.accept(key, translation.request)
    view = await wait_for_job(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # the client has disconnected
    if view.status is not State.COMPLETED:
        raise failure(view)
    images = [await read_base64((await service.jobs.file(output.id, key))[1]) for output in view.outputs]
    unknown = {name for name, value in raw.items() if name not in Text2Image.model_fields and value not in EMPTY}
    ignored = sorted(unknown.union(translation.ignored))
    reply = {"images": images, "parameters": body.model_dump(), "info": json.dumps(_info(view, ignored))}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


@router.get("/progress", responses={200: {}, **errors()})
async def progress(service: ServiceDep, key: KeyDep, skip_current_image: bool = False) -> Response:
    """Returns the progress of the key's latest job that has not ended; all values are zero when there is none.
    `current_image` is a preview, a JPEG in base64.
    """
    view = await _latest(service, key)
    preview = service.jobs.preview(key, view.id) if view and not skip_current_image else None
    state = {
        "skipped": False,
        "interrupted": False,
        "job": view.id if view else "",
        "job_count": 1 if view else 0,
        "job_timestamp": timestamp(view.created_at) if view else "0",
        "job_no": 0,
        "sampling_step": view.step if view else 0,
        "sampling_steps": view.total_steps if view else 0,
    }
    return JSONResponse(
        {
            "progress": round(view.progress, 4) if view else 0.0,
            "eta_relative": (view.eta_s or 0.0) if view else 0.0,
            "state": state,
            "current_image": None if preview is None else base64.b64encode(jpeg(preview)).decode(),
            "textinfo": view.stage if view else None,
        }
    )


@router.post("/interrupt", responses={200: {}, **errors(413)})
async def interrupt(service: ServiceDep, key: KeyDep) -> Response:
    """Cancels the key's latest job that has not ended; jobs of other keys go on."""
    view = await _latest(service, key)
    if view is not None:
        await service.jobs.cancel(key, view.id)
    return JSONResponse({})


@router.get("/sd-models", responses={200: {}, **errors()})
async def sd_models(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the image models."""
    return JSONResponse(
        [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in _image_models(service)
        ]
    )


@router.get("/samplers", responses={200: {}, **errors()})
async def samplers(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the samplers that at least one model supports, by AUTOMATIC1111's names."""
    offered = {name for view in service.models.all() for name in view.spec.schedulers}
    return JSONResponse(
        [
            {"name": name, "aliases": [scheduler], "options": {}}
            for name, scheduler in SAMPLERS.items()
            if scheduler in offered
        ]
    )


@router.get("/schedulers", responses={200: {}, **errors()})
async def schedulers(_: KeyDep) -> Response:
    """Lists one entry, `automatic`: each model uses its own spacing of noise levels."""
    return JSONResponse(
        [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}]
    )


@router.get("/loras", responses={200: {}, **errors()})
async def loras(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the LoRAs on this server that a tag can name: <lora:NAME:WEIGHT>."""
    return JSONResponse(
        [
            {"name": name, "alias": name, "path": name, "metadata": {}}
            for name in await asyncio.to_thread(service.loras.names)
            if not NOT_IN_TAGS.intersection(name)
        ]
    )


@router.get("/options", responses={200: {}, **errors()})
async def options(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the options that the key has set, and defaults for the others."""
    stored = await _stored_options(service, key)
    return JSONResponse(
        {
            "sd_model_checkpoint": service.catalogue.default_for("image"),
            "samples_format": "png",
            "CLIP_stop_at_last_layers": 1,
        }
        | stored
    )


@router.post("/options", responses={200: {}, **errors(404, 413)}, openapi_extra=json_body(Options))
async def set_options(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Stores options for this key only; nothing changes for other keys. Unknown options are ignored, because clients
    send back all options they have received.
    """
    body = read_body(Options, read_object(await request.body()))
    if body.sd_model_checkpoint is not None:
        service.limits.model(body.sd_model_checkpoint, "image")  # raises `UnknownModel`
    await service.sdapi_options.add(key, body.model_dump(exclude_none=True))
    return JSONResponse({})


async def _stored_options(service: Service, key: ApiKey) -> dict[str, Any]:
    """Returns the options the key has set, without a model that no longer exists."""
    stored = await service.sdapi_options.of(key)
    if stored.get("sd_model_checkpoint") not in _image_models(service):
        stored.pop("sd_model_checkpoint", None)
    return stored


async def _translate(service: Service, key: ApiKey, body: Text2Image) -> Translation:
    options = await _stored_options(service, key)
    if body.clip_skip is not None:
        options["CLIP_stop_at_last_layers"] = body.clip_skip
    options |= body.override_settings or {}
    model = options.get("sd_model_checkpoint")
    if model is not None and not isinstance(model, str):
        raise BadRequest("override_settings.sd_model_checkpoint must be the title of a model from sd-models.")
    spec = service.limits.model(model, "image")
    return translate(body, options, spec.name, spec.schedulers)


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
        "sd_model_name": view.model,
        "batch_size": len(seeds),
        "ignored": ignored,
        "warnings": list(view.warnings),
    }


async def _latest(service: Service, key: ApiKey) -> JobView | None:
    """Returns the key's latest running job, else its latest waiting job, else None."""
    for state in LIVE:
        for view in service.jobs.live(key):
            if view.status is state:
                return view
    return None


def _image_models(service: Service) -> list[str]:
    return [view.spec.name for view in service.models.all() if view.spec.type == "image"]
