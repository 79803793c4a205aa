"""Builds the ASGI application: the routes, behind the API key check, behind the guard. Event loop only.

One process can hold several applications: they share the routes and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from server.accounts.auth import Authenticator
from server.api import (
    catalogue,
    chat,
    conversations,
    events,
    files,
    generate,
    health,
    input_files,
    jobs,
    keys,
    metrics,
    model_check,
    model_control,
    models,
    page,
    queue,
    status,
    webhooks,
)
from server.api.anthropic import routes as anthropic
from server.api.deps import BARE_KEYS, PUBLIC, KeyRequired
from server.api.ollama import embed as ollama_embed
from server.api.ollama import management as ollama_management
from server.api.ollama import models as ollama_models
from server.api.openai import chat as openai_chat
from server.api.openai import completions as openai_completions
from server.api.openai import embeddings as openai_embeddings
from server.api.openai import files as openai_files
from server.api.openai import image_edits as openai_image_edits
from server.api.openai import images as openai_images
from server.api.openai import models as openai_models
from server.api.openai import videos as openai_videos
from server.api.openai.responses import routes as openai_responses
from server.api.sdapi import routes as sdapi
from server.api.wire import JsonObject, job_json
from server.errors import BadRequest
from server.http.body import SHARED_BYTES
from server.http.error_body import text_of
from server.http.guard import Guard
from server.library.library import Library
from server.library.pulls import Pulls
from server.service.service import Service

logger = logging.getLogger(__name__)

TIDY_EVERY_S = 60.0
METHODS = ("GET", "POST", "PATCH", "DELETE")

# Error texts for invalid query parameters. FastAPI's own texts would echo the input.
QUERY_TEXTS = {
    "status": "status must be one of queued, processing, completed, failed, canceled.",
    "type": "type must be image or video.",
    "limit": "limit must be a whole number from 1 to 100.",
    "skip_current_image": "skip_current_image must be true or false.",
    "cursor": "cursor must be the nextCursor of an earlier page.",
}

RESOURCES = (
    generate,
    status,
    chat,
    conversations,
    jobs,
    events,
    input_files,
    files,
    models,
    model_control,
    model_check,  # before the paths of the catalogue that it lies among
    catalogue,
    queue,
    keys,
    webhooks,
    metrics,
    sdapi,
    health,
    page,
    openai_models,
    openai_chat,
    openai_completions,
    openai_responses,
    openai_embeddings,
    openai_images,
    openai_image_edits,
    openai_videos,
    openai_files,
    anthropic,
    ollama_models,
    ollama_embed,
    ollama_management,
)


def create_app(
    *,
    service: Service,
    authenticator: Authenticator,
    library: Library,
    pulls: Pulls,
    ready: Callable[[], str | None],
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    body_memory_bytes: int = SHARED_BYTES,
) -> FastAPI:
    """Assembles the application from finished parts.

    `ready` returns the reason why jobs are not accepted, or None when they are.
    `allowed_origins`, such as "https://app.example", turn CORS on. `body_memory_bytes`: of all large bodies together.
    """
    app = FastAPI(
        title="AgentName API",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        lifespan=lambda _: _background_tasks(service),
        exception_handlers={HTTPException: _http_error, RequestValidationError: _query_error},
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # the way FastAPI documents
    app.state.service = service
    app.state.ready = ready
    app.state.page = page.read_page()
    app.state.library = library
    app.state.pulls = pulls
    app.router.routes.extend(_routes())
    # Middleware runs in reverse order: the one that is added last sees a request first.
    app.add_middleware(KeyRequired, authenticator=authenticator, service=service, public=PUBLIC | app.state.page.keys())
    app.add_middleware(
        Guard, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins, body_memory_bytes=body_memory_bytes
    )
    app.add_middleware(metrics.RequestMetrics, service=service)
    return app


@functools.cache
def _routes() -> Sequence[BaseRoute]:
    """The routes of all resources. They know nothing of one application, and to build them takes 30 ms."""
    together = APIRouter()
    for resource in RESOURCES:
        together.include_router(resource.router)
    return tuple(together.routes)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Corrects FastAPI's document: a middleware asks for the API key, and an invalid query is a 400, not a 422."""
    keys = {"key": {"type": "http", "scheme": "bearer"}} | {
        name: {"type": "apiKey", "in": "header", "name": name} for name in BARE_KEYS
    }
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        document["components"]["securitySchemes"] = keys
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["security"] = [] if path in PUBLIC else [{name: []} for name in keys]
        app.openapi_schema = document
    return app.openapi_schema


@asynccontextmanager
async def _background_tasks(service: Service) -> AsyncIterator[None]:
    async def describe(key_id: str, job_id: str) -> JsonObject:
        return job_json(await service.jobs.status_of(key_id, job_id), service.jobs.link)

    loops = (_tidy_periodically(service), service.webhooks.run(describe), service.revocations.run())
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.webhooks.close()


async def _tidy_periodically(service: Service) -> None:
    while True:
        try:
            await service.recovery.tidy()
        except Exception:  # the loop must go on, or the disk would fill up
            logger.warning("tidying failed, next try in a minute", exc_info=True)
        await asyncio.sleep(TIDY_EVERY_S)


async def _http_error(request: Request, error: Exception) -> Response:
    """Leaves the body to the guard, which knows the shape of errors at this path."""
    assert isinstance(error, HTTPException)
    headers = {"Allow": ", ".join(_allowed_methods(request))} if error.status_code == 405 else error.headers
    return Response(None, error.status_code, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Returns the methods of all routes that share the path template of the first route that matches the request.

    The router itself would name the methods of that first route only. The template is compared because several can
    match: "/api/models/pulls" is not "/api/models/{name}".
    """
    routes = [route for resource in RESOURCES for route in resource.router.routes if isinstance(route, APIRoute)]
    path = next((route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE), None)
    return [m for m in METHODS if any(route.path == path and m in (route.methods or ()) for route in routes)]


async def _query_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    name = str(error.errors()[0]["loc"][-1])
    raise BadRequest(QUERY_TEXTS.get(name, text_of(400)), param=name)
