"""What people decide about models: load, unload, pin, unpin, and how long an idle one stays. Admin keys only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.models import ModelReply, model_json
from server.api.schemas import Strict, read_body, read_object
from server.api.wire import errors, json_body
from server.errors import BadRequest
from server.service.service import Service
from server.units import parse_seconds

router = APIRouter()

KEEP_ALIVE = 'a time like "30s", "5m" or "2h", a number of seconds, 0 for unloading at once or -1 for never'
MOST_S = 10 * 365 * 86400.0  # beyond it one means for ever

Name = Annotated[str, Path()]
Said = str | int | float | None


class LoadModel(Strict):
    keepAlive: Said = Field(None, description=f"{KEEP_ALIVE}; left out or null: as it is")


class ChangeModel(Strict):
    keepAlive: Said = Field(None, description=f"{KEEP_ALIVE}; null: as its entry or the setting says")
    pinned: bool | None = Field(None, description="true or false")


@router.post(
    "/api/models/{name}/load",
    responses={200: {"model": ModelReply}, **errors(404, 409, 413)},
    openapi_extra=json_body(LoadModel, required=False),
)
async def load(name: Name, request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Asked for, not waited for: `state` becomes `loading`, then `resident` or `failed`. Of one that is there the idle time starts anew."""
    key.require("admin")
    asked = read_body(LoadModel, await body_of(request))
    seconds = _seconds(asked.keepAlive)
    await service.model_overrides.load(name)
    if seconds is not None:
        await service.model_overrides.keep_alive(name, seconds)
    return _model(service, name)


@router.post("/api/models/{name}/unload", responses={200: {"model": ModelReply}, **errors(404, 409, 413)})
async def unload(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    """It goes once its running jobs are done; waiting ones load it again. A pinned one is a 409."""
    key.require("admin")
    await service.model_overrides.unload(name)
    return _model(service, name)


@router.post("/api/models/{name}/pin", responses={200: {"model": ModelReply}, **errors(404, 413)})
async def pin(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    """Once it is there it stays, whatever waits; kept across restarts."""
    key.require("admin")
    await service.model_overrides.pin(name, True)
    return _model(service, name)


@router.post("/api/models/{name}/unpin", responses={200: {"model": ModelReply}, **errors(404, 413)})
async def unpin(name: Name, service: ServiceDep, key: KeyDep) -> Response:
    key.require("admin")
    await service.model_overrides.pin(name, False)
    return _model(service, name)


async def decide(name: str, asked: ChangeModel, service: Service) -> None:
    """Keep-alive and pin, kept across restarts: the part of PATCH /api/models/{name} that models.toml does not keep."""
    if "keepAlive" in asked.model_fields_set:
        await service.model_overrides.keep_alive(name, _seconds(asked.keepAlive))
    if asked.pinned is not None:
        await service.model_overrides.pin(name, asked.pinned)


async def body_of(request: Request) -> dict[str, object]:
    """No body says nothing."""
    body = await request.body()
    return read_object(body) if body else {}


def _seconds(said: Said) -> float | None:
    if said is None:
        return None
    try:
        seconds = parse_seconds(said)
    except ValueError:
        raise BadRequest(f"keepAlive must be {KEEP_ALIVE}.") from None
    assert isinstance(seconds, int | float)
    return float("inf") if seconds > MOST_S else float(seconds)


def _model(service: Service, name: str) -> Response:
    return JSONResponse(model_json(service.model(name), service))
