"""GET /api/models and GET /api/gpu: what can be asked for, and what holds the device's memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.wire import JsonObject, Reply, errors, timestamp
from server.jobs import DeviceStatus
from server.service import ModelView, Service

router = APIRouter()


class ModelsReply(Reply):
    models: list[dict[str, Any]]


class DevicesReply(Reply):
    devices: list[dict[str, Any]]


@router.get("/api/models", responses={200: {"model": ModelsReply}, **errors()})
async def models(service: ServiceDep, _: KeyDep) -> Response:
    """The models there are, what they can and what state they are in."""
    return JSONResponse({"models": [_model_json(view, service) for view in service.models()]})


@router.get("/api/gpu", responses={200: {"model": DevicesReply}, **errors()})
async def gpu(service: ServiceDep, _: KeyDep) -> Response:
    """Who holds how many bytes of each device; the holders of a device sum to `used`."""
    return JSONResponse({"devices": [_device_json(device) for device in service.devices()]})


def _model_json(view: ModelView, service: Service) -> JsonObject:
    spec, live = view.spec, view.live
    device = next((device.name for device in service.devices()), None)
    loaded = live is not None and live.state == "resident"
    return {
        "name": spec.name,
        "type": spec.type,
        "default": service.default_for(spec.type) == spec.name,
        "state": live.state if live else "available",
        "bytes": live.weight_bytes + live.cache_bytes if live and loaded else spec.weight_bytes,
        "dtype": service.auto_dtype if spec.dtype == "auto" else spec.dtype,
        "device": device if loaded else None,
        "pinned": spec.pinned,
        "idleUnloadAt": timestamp(view.idle_unload_at),
        "merging": live.merging if live and loaded else "unproven",
        "running": live.running if live else 0,
        "defaults": _camel({name: value for name, value in asdict(spec.defaults).items() if value is not None}),
        "limits": _camel(asdict(spec.limits)),
        "sizes": {ratio: list(size) for ratio, size in spec.sizes.items()},
    }


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
    return {_camel_name(name): value for name, value in values.items()}


def _camel_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
