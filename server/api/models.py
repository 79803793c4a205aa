"""GET /api/models, /api/loras and /api/gpu: the available models and LoRAs, and who holds device memory.

Event loop only.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from models.adapters.fit import fits
from models.catalogue_reader import RefusedModel
from models.spec import ModelSpec, ModelType
from pipelines.diffusion_interface import AdapterKind
from pipelines.interface import Merging
from pipelines.step_schedule import MIN_STEPS, SPEEDS, Speed
from server.api.deps import KeyDep, LibraryDep, ServiceDep
from server.api.model_details import FailureReply, failure_json, notes_of, plain
from server.api.model_inputs import Input, TaskReply, inputs_json
from server.api.wire import JsonObject, Reply, errors, timestamp
from server.engine_status import DeviceStatus, ModelState
from server.jobs.request.generate_request import DEFAULT_STEPS
from server.service.models import ModelView
from server.service.service import Service

router = APIRouter()


class EmbeddingDetails(Reply):
    dimensions: int
    prompts: list[str]


class AdapterDetails(Reply):
    kind: AdapterKind
    adapterClass: str | None  # of its module in diffusers, or the architecture of an upscaler
    scale: int | None  # of an upscaler: the factor by which it enlarges
    types: list[str]  # of a ControlNet or T2I-Adapter: the kinds of maps that it follows
    fits: list[str]  # names of the models here whose requests can borrow it
    lentTo: list[str]  # those that hold it now


class ModelReply(Reply):
    name: str
    type: ModelType
    default: bool
    state: ModelState | Literal["incomplete"]
    reason: str | None
    missing: list[str]
    bytes: int
    components: dict[str, int]
    cacheBytes: int
    parkedBytes: int
    dtype: str
    device: str | None
    devices: list[str]
    pinned: bool
    keepAliveSeconds: float
    idleUnloadAt: str | None
    retryInSeconds: int | None
    merging: Merging
    running: int
    waiting: int
    defaults: dict[str, Any]
    limits: dict[str, Any]
    schedulers: list[str]
    inputs: list[Input]
    requiredInputs: list[list[Input]]
    tasks: list[TaskReply]
    takesLoras: bool
    speeds: list[Speed]
    speedNote: str | None
    embedding: EmbeddingDetails | None
    adapter: AdapterDetails | None
    maxClipSkip: int
    sizes: dict[str, list[int]]
    notes: list[str]
    failure: FailureReply | None


class RefusedReply(Reply):
    name: str
    state: Literal["failed", "incomplete"]
    reason: str
    missing: list[str]
    source: str | None = None  # admin keys only


class ModelsReply(Reply):
    models: list[ModelReply]
    refused: list[RefusedReply]


class HolderReply(Reply):
    name: str
    kind: str
    bytes: int


class DeviceReply(Reply):
    name: str
    total: int
    used: int
    others: int
    reserve: int
    free: int
    holders: list[HolderReply]


class DevicesReply(Reply):
    devices: list[DeviceReply]


class LorasReply(Reply):
    loras: list[str]


@router.get("/api/loras", responses={200: {"model": LorasReply}, **errors()})
async def loras(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the names that a request's `loras` can use. A LoRA file does not tell which model it was made for."""
    return JSONResponse({"loras": plain(await asyncio.to_thread(service.loras.names))})


@router.get("/api/models", responses={200: {"model": ModelsReply}, **errors()})
async def models(service: ServiceDep, library: LibraryDep, key: KeyDep) -> Response:
    """Lists all models with their state, defaults, limits and abilities. A model whose files are not all there (yet) is
    `incomplete`: requests cannot use it. `refused` lists what was found and cannot be served, with the reason.
    """
    admin, refused = "admin" in key.scopes, list(library.refused().values())
    served, others = [], []
    for view in service.models.all():
        served.append(model_json(view, service, admin=admin))
        await asyncio.sleep(0)  # of thousands of models the list takes its time, and other requests get their turns
    for model in refused:
        if model.type and model.missing:
            served.append(incomplete_json(model, model.type, service))
        others.append(refused_json(model, admin=admin))
        await asyncio.sleep(0)
    return JSONResponse({"models": served, "refused": others})


@router.get("/api/gpu", responses={200: {"model": DevicesReply}, **errors()})
async def gpu(service: ServiceDep, _: KeyDep) -> Response:
    """Returns who holds how many bytes of each device. The holders of a device sum to `used`.

    Bytes of kind `cached` are kept by this process for its next job, and count as free. CUDA itself is among `others`.
    """
    return JSONResponse({"devices": [_device_json(device) for device in service.live_jobs.devices()]})


def model_json(view: ModelView, service: Service, *, admin: bool = False) -> JsonObject:
    """admin: whether the reader may see paths of this machine and the text of libraries."""
    spec, live = view.spec, view.live.status if view.live else None
    loaded = live is not None and live.state in ("resident", "parked")
    devices = list(view.live.devices) if view.live else []
    return {
        "name": spec.name,
        "type": spec.type,
        "default": service.catalogue.default_for(spec.type) == spec.name,
        "state": live.state if live else "available",
        "reason": None,
        "missing": [],
        "bytes": live.weight_bytes + live.cache_bytes if live and loaded else spec.weight_bytes,
        "components": dict(live.components) if live and loaded else {},
        "cacheBytes": live.cache_bytes if live and loaded else 0,
        "parkedBytes": live.parked_bytes if live and loaded else 0,
        "dtype": service.auto_dtype if spec.dtype == "auto" else spec.dtype,
        "device": devices[0] if devices else None,
        "devices": devices,
        "pinned": view.pinned,
        "keepAliveSeconds": -1 if math.isinf(view.keep_alive_s) else plain(view.keep_alive_s),
        "idleUnloadAt": timestamp(view.idle_unload_at),
        "retryInSeconds": _retry_s(view),
        "merging": live.merging if live and loaded else "unproven",
        "running": live.running if live else 0,
        "waiting": live.waiting if live else 0,
        "defaults": _camel({name: value for name, value in asdict(spec.defaults).items() if value is not None}),
        "limits": _camel(asdict(spec.limits)),
        "schedulers": list(spec.schedulers),
        **inputs_json(spec, service.catalogue.specs()),
        "takesLoras": spec.takes_loras,
        **_speeds(spec),
        "embedding": _embedding_json(spec),
        "adapter": _adapter_json(spec, service),
        "maxClipSkip": spec.max_clip_skip,
        "sizes": plain(spec.sizes),
        "notes": notes_of(view),
        "failure": failure_json(view, admin=admin),
    }


def incomplete_json(refused: RefusedModel, kind: ModelType, service: Service) -> JsonObject:
    """Returns the JSON of a model that is listed although it cannot be served yet."""
    spec = ModelSpec(name=refused.name, type=kind, path=None, source="")
    view = ModelView(spec, live=None, idle_unload_at=None, pinned=False, keep_alive_s=0)
    told = {"state": "incomplete", "reason": refused.reason, "missing": list(refused.missing), "default": False}
    return model_json(view, service) | told


def refused_json(refused: RefusedModel, *, admin: bool) -> JsonObject:
    """admin: whether the reader may see paths of this machine."""
    reason = refused.reason
    if refused.path is not None and not admin:  # a source that models.toml names, and that is away
        reason = reason.replace(str(refused.path), refused.path.name)
    found = {
        "name": refused.name,
        "state": refused.state,
        "reason": plain(reason),
        "missing": plain(refused.missing),
    }
    return found | {"source": None if refused.path is None else plain(str(refused.path))} if admin else found


def _speeds(spec: ModelSpec) -> JsonObject:
    """The speeds that change anything at the model's usual number of steps, and why there is only one."""
    if not spec.is_diffusion:
        return {"speeds": [], "speedNote": None}
    steps = spec.defaults.steps or DEFAULT_STEPS
    if steps >= MIN_STEPS:
        return {"speeds": list(SPEEDS), "speedNote": None}
    note = f"{spec.name} makes an output in {steps} steps; below {MIN_STEPS}, each is computed at any speed."
    return {"speeds": ["exact"], "speedNote": note}


def _embedding_json(spec: ModelSpec) -> JsonObject | None:
    """The length of a vector, and the names of the prompts that a request may choose from."""
    layout = spec.embedding
    return None if layout is None else {"dimensions": layout.dimensions, "prompts": plain(list(layout.prompts))}


def _adapter_json(spec: ModelSpec, service: Service) -> JsonObject | None:
    if spec.adapter is None:
        return None
    holders = (each.status for each in service.live_jobs.models())
    prefix = f"{spec.adapter}:{spec.name}"
    return {
        "kind": spec.adapter,
        "adapterClass": spec.adapter_class or None,
        "scale": spec.scale,
        "types": list(spec.control_types),
        "fits": [base.name for base in service.catalogue.specs() if base.is_diffusion and fits(spec, base)],
        "lentTo": [
            held.model for held in holders if any(part.partition("@")[0] == prefix for part, _ in held.components)
        ],
    }


def _retry_s(view: ModelView) -> int | None:
    seconds = view.live.retry_in_s if view.live else None
    return None if seconds is None else math.ceil(seconds)


def _device_json(device: DeviceStatus) -> JsonObject:
    return {
        "name": device.name,
        "total": device.total_bytes,
        "used": device.used_bytes,
        "others": device.others_bytes,
        "reserve": device.reserve_bytes,
        "free": device.free_bytes,
        "holders": [{"name": held.name, "kind": held.kind, "bytes": held.n_bytes} for held in device.holders],
    }


def _camel(values: JsonObject) -> JsonObject:
    return {_camel_name(name): plain(value) for name, value in values.items()}


def _camel_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
