"""Ollama's lists and descriptions of models: GET /api/tags, POST /api/show, GET /api/ps, GET /api/version.

Event loop only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.errors import ModelsError
from models.errors import UnknownModel as NoSuchModel
from models.files.json_files import read_config
from models.spec import ModelSpec
from server.api.deps import KeyDep, ServiceDep
from server.api.ollama.names import shown_name
from server.api.read_json import read_json
from server.api.schemas import read_body
from server.api.shared.field_types import Lenient
from server.api.strict_fields import ModelName
from server.api.wire import JsonObject, errors, json_body, timestamp
from server.errors import BadRequest, UnknownModel
from server.service.models import ModelView
from server.service.service import Service
from server.version import program_version

router = APIRouter(tags=["Ollama"])

API_VERSION = "0.13.0"  # the release of Ollama whose API this is: some clients refuse older ones
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)  # when a model was changed is not known
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)
LOADED = ("resident", "parked")
TEXT = ("chat", "embedding")  # types of models that this API knows


class Show(Lenient):
    model: ModelName


@router.get("/api/version", responses={200: {}, **errors()})
async def version(_: KeyDep) -> Response:
    """Returns the version of Ollama's API that this server speaks, and its own."""
    return JSONResponse({"version": API_VERSION, "agentname": program_version()})


@router.get("/api/tags", responses={200: {}, **errors()})
async def tags(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the models that write or embed text, as Ollama does."""
    return JSONResponse({"models": [_listed(view.spec, service) for view in _views(service)]})


@router.get("/api/ps", responses={200: {}, **errors()})
async def loaded(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the models that write or embed text and are loaded, with the time when they will be unloaded."""
    return JSONResponse({"models": [_running(view, service) for view in _views(service) if _is_loaded(view)]})


@router.post("/api/show", responses={200: {}, **errors(404, 413)}, openapi_extra=json_body(Show))
async def show(request: Request, service: ServiceDep, _: KeyDep) -> Response:
    """Describes one model, as Ollama does: its abilities, the length of its context, its defaults."""
    body = await read_json(await request.body(), lambda raw: read_body(Show, {"model": raw.get("name"), **raw}))
    try:
        spec = service.catalogue.get(body.model)
    except NoSuchModel as error:
        raise UnknownModel(f"{error.message} GET /api/tags lists them all.") from None
    if spec.type not in TEXT:
        raise BadRequest(f"model {spec.name} is for {spec.type}. GET /api/tags lists those for text.", param="model")
    config = await asyncio.to_thread(_config, spec)
    family = str(config.get("model_type") or spec.type)
    info: JsonObject = {"general.architecture": family, "general.basename": spec.name}
    if spec.limits.context_tokens is not None:
        info[f"{family}.context_length"] = spec.limits.context_tokens
    if isinstance(config.get("hidden_size"), int):
        info[f"{family}.embedding_length"] = config["hidden_size"]
    return JSONResponse(
        {
            "details": {**_details(spec, service), "family": family, "families": [family]},
            "model_info": info,
            "capabilities": _capabilities(spec),
            "parameters": "\n".join(f"{name} {value}" for name, value in _parameters(spec).items()),
            "modified_at": timestamp(UNKNOWN_TIME),
            "modelfile": "",
            "template": "",
            "license": "",
        }
    )


def _views(service: Service) -> list[ModelView]:
    return [view for view in service.models.all() if view.spec.type in TEXT]


def _is_loaded(view: ModelView) -> bool:
    return view.live is not None and view.live.status.state in LOADED


def _listed(spec: ModelSpec, service: Service) -> JsonObject:
    return {
        "name": shown_name(spec),
        "model": shown_name(spec),
        "modified_at": timestamp(UNKNOWN_TIME),
        "size": spec.weight_bytes,
        "digest": hashlib.sha256(spec.fingerprint.encode()).hexdigest(),
        "details": _details(spec, service),
    }


def _running(view: ModelView, service: Service) -> JsonObject:
    assert view.live is not None, "only loaded models are listed"
    status = view.live.status
    n_bytes = status.weight_bytes + status.cache_bytes
    on_gpu = any(device != "cpu" for device in view.live.devices)
    return {
        **_listed(view.spec, service),
        "size": n_bytes,
        "size_vram": n_bytes if on_gpu else 0,
        "expires_at": timestamp(view.idle_unload_at or FOR_EVER),
        "context_length": view.spec.limits.context_tokens or 0,
    }


def _details(spec: ModelSpec, service: Service) -> JsonObject:
    return {
        "parent_model": "",
        "format": "gguf" if spec.path is not None and spec.path.suffix == ".gguf" else "safetensors",
        "family": spec.type,
        "families": [spec.type],
        "parameter_size": "",
        "quantization_level": spec.load.quantization or (service.auto_dtype if spec.dtype == "auto" else spec.dtype),
    }


def _capabilities(spec: ModelSpec) -> list[str]:
    if spec.type == "embedding":
        return ["embedding"]
    return ["completion", "tools", *(["vision"] if spec.takes_images else [])]


def _parameters(spec: ModelSpec) -> Mapping[str, Any]:
    """The model's defaults under Ollama's names of the options; none where nothing is drawn by chance."""
    if spec.type == "embedding":
        return {}
    defaults = spec.defaults
    return {
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "top_k": defaults.top_k,
        "min_p": defaults.min_p,
        "repeat_penalty": defaults.repetition_penalty,
    }


def _config(spec: ModelSpec) -> Mapping[str, Any]:
    """The checkpoint's config.json; empty where there is none."""
    if spec.path is None or not spec.path.is_dir():
        return {}
    try:
        return read_config(spec.path / "config.json")
    except (OSError, ModelsError):
        return {}
