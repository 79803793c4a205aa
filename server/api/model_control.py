"""Loads, unloads, pins and unpins models, and sets their keep-alive. Admin keys only. Event loop only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.models import ModelReply, model_json
from server.api.schemas import read_body, read_object
from server.api.strict_fields import Strict
from server.api.wire import errors, json_body
from server.errors import BadRequest
from server.service.service import Service
from server.units import parse_seconds

router = APIRouter()

KEEP_ALIVE = 'a time like "30s", "5m" or "2h", a number of seconds, 0 to unload at once or -1 to never unload'
MAX_KEEP_ALIVE_S = 10 * 365 * 86400.0  # a longer keep-alive means forever

Name = Annotated[str, Path()]
KeepAlive = str | int | float | None


class LoadModel(Strict):
    keepAlive: KeepAlive = Field(None, description=f"{KEEP_ALIVE}; null leaves it unchanged")


class ChangeModel(Strict):
    keepAlive: KeepAlive = Field(
        None, description=f"{KEEP_ALIVE}; null returns to the value of the model's entry or of the setting"
    )
    pinned: bool | None = Field(None, description="true or false")


@router.post(
    "/api/models/{name}/load",
    responses={200: {"model": ModelReply}, **errors(404, 409, 413)},
    openapi_extra=json_body(LoadModel, required=False),
)
async def load(name: Name, request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Requests that a model be loaded and returns at once: `state` becomes `loading`, then `resident` or `failed`.
    For a model that is already loaded, the idle time starts anew. Needs an admin key.
    """
    key.require("admin")
    body = read_body(LoadModel, await optional_body(request))
    seconds = _seconds(body.keepAlive)
    await service.model_overrides.load(name)
    if seconds is not None:
        await service.model_overrides.keep_alive(name, seconds)
    return _model(service, name)


@router.post("/api/models/{name}/unload", responses={200: {"model": ModelReply}, **errors(404, 409, 413)})
async def unload(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    """Unloads a model once its running jobs have finished; waiting jobs load it again. A pinned model gives 409.
    Needs an admin key.
    """
    key.require("admin")
    await service.model_overrides.unload(name)
    return _model(service, name)


@router.post("/api/models/{name}/pin", responses={200: {"model": ModelReply}, **errors(404, 413)})
async def pin(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    """Pins a model: once loaded, it is never evicted. The pin is stored and survives a restart. Needs an admin key."""
    key.require("admin")
    await service.model_overrides.pin(name, True)
    return _model(service, name)


@router.post("/api/models/{name}/unpin", responses={200: {"model": ModelReply}, **errors(404, 413)})
async def unpin(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    """Removes the pin, so that the model can be evicted again. Needs an admin key."""
    key.require("admin")
    await service.model_overrides.pin(name, False)
    return _model(service, name)


async def apply_overrides(name: str, body: ChangeModel, service: Service) -> None:
    """Stores the keep-alive and the pin of PATCH /api/models/{name}; all other fields go to models.toml."""
    if "keepAlive" in body.model_fields_set:
        await service.model_overrides.keep_alive(name, _seconds(body.keepAlive))
    if body.pinned is not None:
        await service.model_overrides.pin(name, body.pinned)


async def optional_body(request: Request) -> dict[str, object]:
    """Returns the JSON object of the body; an empty body counts as an empty object."""
    body = await request.body()
    return read_object(body) if body else {}


def _seconds(keep_alive: KeepAlive) -> float | None:
    if keep_alive is None:
        return None
    try:
        seconds = parse_seconds(keep_alive)
    except ValueError:
        raise BadRequest(f"keepAlive must be {KEEP_ALIVE}.") from None
    assert isinstance(seconds, int | float)
    return float("inf") if seconds > MAX_KEEP_ALIVE_S else float(seconds)


def _model(service: Service, name: str) -> Response:
    return JSONResponse(model_json(service.models.one(name), service, admin=True))
