"""The part of AUTOMATIC1111's API that its clients use to make pictures, for Open WebUI and the like.

A key is taken as ever, or as the password of Basic authentication, which is all those clients can send; only under /sdapi.
What a client asks of its one job (`progress`, `interrupt`) is answered for the latest job of its key, and what it sets for
everybody (`options`) is set for its key.
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
from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
from server.api.openai.wire import failure
from server.api.schemas import Strict, read_body, read_object
from server.api.sdapi.txt2img import NAMED, SAMPLERS, Text2Image, Wanted, wanted
from server.api.wait_for_job import base64_of, finished
from server.api.wire import JsonObject, errors, json_body, timestamp
from server.errors import BadRequest
from server.job import State
from server.jobs.encoding import jpeg
from server.jobs.job_view import JobView
from server.service.service import Service

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])

LIVE = (State.PROCESSING, State.QUEUED)


class Options(Strict):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    sd_model_checkpoint: str | None = Field(
        None, min_length=1, max_length=64, description="the title of a model from sd-models"
    )
    CLIP_stop_at_last_layers: int | None = Field(None, ge=1, le=101, description="a whole number from 1 to 101")


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["images"]):
        raw = read_object(await request.body())
        body = read_body(Text2Image, raw)
        asked = await _wanted(service, key, body)
        accepted = await service.accept(key, asked.request)
    view = await finished(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # nobody is there to read it
    if view.status is not State.COMPLETED:
        raise failure(view)
    images = [await base64_of((await service.file(output.id, key))[1]) for output in view.outputs]
    unread = {name for name, value in raw.items() if name not in Text2Image.model_fields and value not in EMPTY}
    ignored = sorted(unread.union(asked.ignored))
    reply = {"images": images, "parameters": body.model_dump(), "info": json.dumps(_info(view, ignored))}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


EMPTY: tuple[Any, ...] = (None, "", False, [], {})  # a field at one of these asks for nothing


@router.get("/progress", responses={200: {}, **errors()})
async def progress(service: ServiceDep, key: KeyDep, skip_current_image: bool = False) -> Response:
    """Of the latest job of this key that has not ended; all zero when there is none. `current_image` is a preview, JPEG in base64."""
    view = await _latest(service, key)
    preview = service.preview(key, view.id) if view and not skip_current_image else None
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
    """Cancels the latest job of this key, nobody else's."""
    view = await _latest(service, key)
    if view is not None:
        await service.cancel(key, view.id)
    return JSONResponse({})


@router.get("/sd-models", responses={200: {}, **errors()})
async def sd_models(service: ServiceDep, _: KeyDep) -> Response:
    return JSONResponse(
        [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in _image_models(service)
        ]
    )


@router.get("/samplers", responses={200: {}, **errors()})
async def samplers(service: ServiceDep, _: KeyDep) -> Response:
    """Those that some model here takes, by the names A1111 gives them."""
    offered = {name for view in service.models() for name in view.spec.schedulers}
    return JSONResponse(
        [
            {"name": name, "aliases": [scheduler], "options": {}}
            for name, scheduler in SAMPLERS.items()
            if scheduler in offered
        ]
    )


@router.get("/schedulers", responses={200: {}, **errors()})
async def schedulers(_: KeyDep) -> Response:
    """How noise levels are spaced is the model's own."""
    return JSONResponse(
        [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}]
    )


@router.get("/loras", responses={200: {}, **errors()})
async def loras(service: ServiceDep, _: KeyDep) -> Response:
    return JSONResponse(
        [
            {"name": name, "alias": name, "path": name, "metadata": {}}
            for name in await asyncio.to_thread(service.lora_names)
        ]
    )


@router.get("/options", responses={200: {}, **errors()})
async def options(service: ServiceDep, key: KeyDep) -> Response:
    """As this key chose them; else the defaults."""
    kept = await _kept(service, key)
    return JSONResponse(
        {"sd_model_checkpoint": service.default_for("image"), "samples_format": "png", "CLIP_stop_at_last_layers": 1}
        | kept
    )


@router.post("/options", responses={200: {}, **errors(404, 413)}, openapi_extra=json_body(Options))
async def set_options(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """For this key alone: nothing is switched for everybody. What is not here is ignored, as its clients send back all they were told."""
    said = read_body(Options, read_object(await request.body()))
    if said.sd_model_checkpoint is not None:
        service.spec_of(said.sd_model_checkpoint, "image")  # raises
    await service.choices.add(key, said.model_dump(exclude_none=True))
    return JSONResponse({})


async def _kept(service: Service, key: ApiKey) -> dict[str, Any]:
    """What this key chose, less a model that is gone."""
    kept = await service.choices.of(key)
    if kept.get("sd_model_checkpoint") not in _image_models(service):
        kept.pop("sd_model_checkpoint", None)
    return kept


async def _wanted(service: Service, key: ApiKey, body: Text2Image) -> Wanted:
    chosen = await _kept(service, key)
    if body.clip_skip is not None:
        chosen["CLIP_stop_at_last_layers"] = body.clip_skip
    chosen |= body.override_settings or {}
    model = chosen.get("sd_model_checkpoint")
    if model is not None and not isinstance(model, str):
        raise BadRequest("override_settings.sd_model_checkpoint must be the title of a model from sd-models.")
    spec = service.spec_of(model, "image")
    return wanted(body, chosen, spec.name, spec.schedulers)


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
        "sampler_name": NAMED.get(view.params["scheduler"], view.params["scheduler"]),
        "clip_skip": (view.params["clipSkip"] or 0) + 1,
        "loras": view.params["loras"],
        "sd_model_name": view.model,
        "batch_size": len(seeds),
        "ignored": ignored,
    }


async def _latest(service: Service, key: ApiKey) -> JobView | None:
    """What runs before what waits."""
    for state in LIVE:
        for view in service.live(key):
            if view.status is state:
                return view
    return None


def _image_models(service: Service) -> list[str]:
    return [view.spec.name for view in service.models() if view.spec.type == "image"]
