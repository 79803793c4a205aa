"""GET /v1/models: lists the models in OpenAI's format, or in Anthropic's for its clients. Event loop only."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.errors import UnknownModel as NoSuchModel
from models.model_names import pulled_from
from models.spec import ModelSpec
from server.api.anthropic.models import VERSION, model_info, model_page
from server.api.deps import KeyDep, ServiceDep
from server.api.openai.wire import errors
from server.api.wire import JsonObject
from server.errors import UnknownModel

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", responses={200: {}, **errors()})
async def models(request: Request, service: ServiceDep, _: KeyDep) -> Response:
    """Lists the names of all models in OpenAI's format, or of those that write text in Anthropic's format, to requests
    with an `anthropic-version` header.
    """
    if VERSION in request.headers:
        return JSONResponse(model_page(service.catalogue.specs(), request.query_params))
    return JSONResponse(
        {"object": "list", "data": [_model(view.spec) for view in service.models.all() if view.spec.type != "adapter"]}
    )


@router.get("/v1/models/{name:path}", responses={200: {}, **errors(404)})
async def model(name: str, request: Request, service: ServiceDep, _: KeyDep) -> Response:
    """Returns one model in OpenAI's or Anthropic's format, found by any name that a request may use."""
    describe = model_info if VERSION in request.headers else _model
    try:
        return JSONResponse(describe(service.catalogue.get(name)))
    except NoSuchModel as error:
        raise UnknownModel(f"{error.message} GET /v1/models lists them all.") from None


def _model(spec: ModelSpec) -> JsonObject:
    """Returns OpenAI's fields, and the context of a model that reads text under the two names that clients read it by.

    An embedding model has its type and the length of its vectors too.
    """
    source = pulled_from(spec)
    owner = "agentname" if source is None else source.repo.partition("/")[0]
    entry: JsonObject = {"id": spec.name, "object": "model", "created": 0, "owned_by": owner}  # when is not known
    if spec.embedding is not None:
        entry |= {"type": "embedding", "dimensions": spec.embedding.dimensions}
    context = spec.limits.context_tokens
    return entry if context is None else {**entry, "context_length": context, "max_model_len": context}
