"""The part of AUTOMATIC1111's API that its clients use to make pictures, for Open WebUI and the like.

A key is taken as ever, or as the password of Basic authentication, which is all those clients can send; only under /sdapi.
What a client asks of its one job (`progress`, `interrupt`) is answered for the latest job of its key.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
from server.api.openai.wire import failure
from server.api.schemas import NO_NUL, SAYS_SOMETHING, Strict, read_body, read_object
from server.api.waiting import base64_of, finished
from server.api.wire import JsonObject, errors, json_body, timestamp
from server.auth import ApiKey
from server.encoding import jpeg
from server.errors import BadRequest
from server.jobs import State
from server.resolving import MAX_SEED, GenerateRequest
from server.service import Service
from server.views import JobView

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])

LIVE = (State.PROCESSING, State.QUEUED)


class Text2Image(Strict):
    """Its clients send a hundred fields, most at their defaults: what is not here is ignored, and told in `info.ignored`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)

    prompt: str = Field(
        min_length=1,
        max_length=4000,
        pattern=SAYS_SOMETHING,
        description="text of 1 to 4000 characters, not only white space",
    )
    negative_prompt: str | None = Field(
        None, max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters"
    )
    seed: int | None = Field(None, ge=-1, le=MAX_SEED, description=f"a whole number from -1 (any) to {MAX_SEED}")
    steps: int | None = Field(None, ge=1, le=1000, description="a whole number from 1 to 1000")
    cfg_scale: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    width: int | None = Field(None, ge=8, le=16384, description="a whole number of pixels that the model accepts")
    height: int | None = Field(None, ge=8, le=16384, description="a whole number of pixels that the model accepts")
    batch_size: int | None = Field(None, ge=1, le=8, description="a whole number from 1 to 8")
    n_iter: int | None = Field(None, ge=1, le=8, description="a whole number from 1 to 8")
    override_settings: dict[str, Any] | None = Field(
        None, description="an object; sd_model_checkpoint names a model, live_previews_enable may be false"
    )


class Options(Strict):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    sd_model_checkpoint: str | None = Field(None, description="the title of a model from sd-models")


@router.post("/txt2img", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Text2Image))
async def txt2img(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["images"]):
        raw = read_object(await request.body())
        body = read_body(Text2Image, raw)
        accepted = await service.accept(key, _job(body))
    view = await finished(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # nobody is there to read it
    if view.status is not State.COMPLETED:
        raise failure(view)
    images = [await base64_of((await service.file(output.id, key))[1]) for output in view.outputs]
    ignored = sorted(name for name, value in raw.items() if name not in Text2Image.model_fields and value not in EMPTY)
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


@router.get("/options", responses={200: {}, **errors()})
async def options(service: ServiceDep, _: KeyDep) -> Response:
    return JSONResponse({"sd_model_checkpoint": service.default_for("image"), "samples_format": "png"})


@router.post("/options", responses={200: {}, **errors(413)}, openapi_extra=json_body(Options))
async def set_options(request: Request, service: ServiceDep, _: KeyDep) -> Response:
    """Every request names its model here: nothing is switched for everybody. Naming the default changes nothing, so it is fine."""
    wanted = read_body(Options, read_object(await request.body())).sd_model_checkpoint
    if wanted not in (None, service.default_for("image")):
        raise BadRequest(
            "The model is not switched for everybody: name it in override_settings.sd_model_checkpoint of txt2img."
        )
    return JSONResponse({})


def _job(body: Text2Image) -> GenerateRequest:
    settings: Mapping[str, Any] = body.override_settings or {}
    model = settings.get("sd_model_checkpoint")
    if model is not None and not isinstance(model, str):
        raise BadRequest("override_settings.sd_model_checkpoint must be the title of a model from sd-models.")
    previews = settings.get("live_previews_enable", True)
    if not isinstance(previews, bool):
        raise BadRequest("override_settings.live_previews_enable must be true or false.")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > 8:
        raise BadRequest("batch_size times n_iter must be at most 8.")
    return GenerateRequest(
        type="image",
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or None,
        model=model or None,
        seed=None if body.seed in (None, -1) else body.seed,
        steps=body.steps,
        guidance_scale=body.cfg_scale,
        width=body.width,
        height=body.height,
        n=n,
        preview=previews,  # for `progress`, as its clients are used to
    )


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
        "sampler_name": view.params["scheduler"],
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
