"""What this server offers, as AUTOMATIC1111 and its ControlNet extension list it. Event loop only."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pipelines.diffusion_interface import AdapterKind
from server.api.deps import KeyDep, ServiceDep
from server.api.sdapi.controlnet import CONTROL_KINDS, MODULES
from server.api.sdapi.resizing import RESIZERS
from server.api.sdapi.settings import image_models
from server.api.wire import errors
from server.jobs.metadata import NOT_IN_TAGS
from server.jobs.sampler_names import SAMPLERS
from server.service.service import Service

router = APIRouter()
controlnet_router = APIRouter(prefix="/controlnet", tags=["AUTOMATIC1111"])


@router.get("/sd-models", responses={200: {}, **errors()})
async def sd_models(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the image models."""
    return JSONResponse(
        [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in image_models(service)
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


@router.get("/upscalers", responses={200: {}, **errors()})
async def upscalers(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the upscalers: plain resizing, and the upscaler models."""
    return JSONResponse(
        [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
            for name in ("None", *RESIZERS, *adapters(service, "upscaler"))
        ]
    )


@router.get("/scripts", responses={200: {}, **errors()})
async def scripts(_: KeyDep) -> Response:
    """Lists the scripts that `alwayson_scripts` can name: `controlnet`."""
    return JSONResponse({"txt2img": ["controlnet"], "img2img": ["controlnet"]})


@controlnet_router.get("/version", responses={200: {}, **errors()})
async def controlnet_version(_: KeyDep) -> Response:
    """Returns the version of the ControlNet extension's API that is followed."""
    return JSONResponse({"version": 3})


@controlnet_router.get("/model_list", responses={200: {}, **errors()})
async def controlnet_models(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the ControlNets, T2I-Adapters and IP-Adapters that a unit can name."""
    return JSONResponse({"model_list": adapters(service, *CONTROL_KINDS)})


@controlnet_router.get("/module_list", responses={200: {}, **errors()})
async def controlnet_modules(_: KeyDep) -> Response:
    """Lists the preprocessors that a unit can name. For other kinds of maps, send the map itself and `none`."""
    return JSONResponse({"module_list": list(MODULES), "module_detail": {}})


def adapters(service: Service, *kinds: AdapterKind) -> list[str]:
    return [spec.name for spec in service.catalogue.specs() if spec.adapter in kinds]
