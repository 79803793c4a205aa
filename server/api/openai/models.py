"""GET /v1/models: lists the models in OpenAI's format. Event loop only."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.openai.wire import errors
from server.api.wire import JsonObject
from server.errors import UnknownModel

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", responses={200: {}, **errors()})
async def models(service: ServiceDep, _: KeyDep) -> Response:
    """Lists the names of all models in OpenAI's format."""
    return JSONResponse({"object": "list", "data": [_model(view.spec.name) for view in service.models.all()]})


@router.get("/v1/models/{name}", responses={200: {}, **errors(404)})
async def model(name: str, service: ServiceDep, _: KeyDep) -> Response:
    """Returns one model in OpenAI's format."""
    if all(view.spec.name != name for view in service.models.all()):
        raise UnknownModel("There is no such model here; GET /v1/models lists them.")
    return JSONResponse(_model(name))


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 0, "owned_by": "agentname"}  # its creation time is unknown
