"""GET and POST /sdapi/v1/options, which are stored per key, and the model that they choose. Event loop only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.spec import ModelSpec
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep
from server.api.schemas import read_body, read_object
from server.api.sdapi.schema import Image2Image, Text2Image, Tolerant
from server.api.wire import errors, json_body
from server.errors import BadRequest
from server.service.service import Service

router = APIRouter()


class Options(Tolerant):
    sd_model_checkpoint: str | None = Field(
        None, min_length=1, max_length=64, description="the title of a model from sd-models"
    )
    CLIP_stop_at_last_layers: int | None = Field(None, ge=1, le=101, description="a whole number from 1 to 101")


@router.get("/options", responses={200: {}, **errors()})
async def options(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the options that the key has set, and defaults for the others."""
    stored = await _stored(service, key)
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


async def settings_of(
    service: Service, key: ApiKey, body: Text2Image | Image2Image
) -> tuple[dict[str, Any], ModelSpec]:
    """The key's options with those of the request over them, and the model they choose. Raises `BadRequest`."""
    options = await _stored(service, key)
    if body.clip_skip is not None:
        options["CLIP_stop_at_last_layers"] = body.clip_skip
    options |= body.override_settings or {}
    model = options.get("sd_model_checkpoint")
    if model is not None and not isinstance(model, str):
        raise BadRequest("override_settings.sd_model_checkpoint must be the title of a model from sd-models.")
    return options, service.limits.model(model, "image")


async def _stored(service: Service, key: ApiKey) -> dict[str, Any]:
    """Returns the options the key has set, without a model that no longer exists."""
    stored = await service.sdapi_options.of(key)
    if stored.get("sd_model_checkpoint") not in image_models(service):
        stored.pop("sd_model_checkpoint", None)
    return stored


def image_models(service: Service) -> list[str]:
    """Upscalers are no checkpoints for AUTOMATIC1111."""
    return [view.spec.name for view in service.models.all() if view.spec.type == "image" and view.spec.adapter is None]
